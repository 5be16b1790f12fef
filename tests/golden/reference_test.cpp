// SPDX-License-Identifier: MIT
#include "comparison.hpp"

TEST_CASE("the reference back end computes what transformers computes") { mllama_test::check_golden_models<mllama::reference>(); }
