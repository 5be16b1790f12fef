// SPDX-License-Identifier: MIT
// Types made from config.json files are the ones that a person writes.
#include <concepts>
#include <generated.hpp>

namespace mllama {

using models::Instruct;
using models::OddSizes;
using models::TextOnly;

static_assert(std::same_as<models::ModelList, Models<Instruct, OddSizes, TextOnly, models::Llama>>);
static_assert(
    std::same_as<JoinModels<ReleasedModels, models::ModelList>,
                 Models<Llama32Vision11B, Llama32Vision11BBase, Llama32Vision90B, Instruct, OddSizes, TextOnly, models::Llama>>);

static_assert(count_parameters<Instruct>().tensors == count_parameters<Llama32Vision11B>().tensors);
static_assert(count_parameters<Instruct>().elements == count_parameters<Llama32Vision11B>().elements);
static_assert(Instruct::Vision::aspect_ratios == Vision560::aspect_ratios);
static_assert(Instruct::Vision::intermediate == Vision560::intermediate);
static_assert(Instruct::Text::cross == Text11B::cross);
static_assert(Instruct::Text::rope_scaling == Text11B::rope_scaling);
static_assert(Instruct::Text::image_token == Text11B::image_token);
static_assert(Instruct::Text::pad_token == Text11B::pad_token);

static_assert(OddSizes::Text::pad_token == -1);  // null in the file
static_assert(models::Llama::Text::pad_token == -1);

}  // namespace mllama
