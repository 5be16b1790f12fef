// SPDX-License-Identifier: MIT
#include <models.hpp>

static_assert(mllama::models::Tiny::Text::hidden == 32);
static_assert(mllama::count_parameters<mllama::models::Tiny>().tensors > 100);
