// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/model_sizes.hpp>
#include <mllama/generate/plan.hpp>
#include <mllama/generate/pretrained.hpp>
#include <mllama/io/available_memory.hpp>
#include <mllama/io/model_files.hpp>

/// Whether a folder's model fits in memory, before it is loaded: only the headers of its files are read.

namespace mllama {

namespace detail {

/// The line of a plan that a tensor counts for, by its canonical name.
template <class Model>
[[nodiscard]] std::size_t line_of(const Plan<Model>& plan, std::string_view name) {
  const auto in = [&](std::string_view module) {
    return name.starts_with(module) && (name.size() == module.size() || name[module.size()] == '.');
  };
  std::string_view wanted;
  if (in("layers")) {
    const std::string_view rest = name.substr(std::string_view("layers.").size());
    const std::string_view index = rest.substr(0, rest.find('.'));
    const bool cross = std::ranges::any_of(Model::Text::cross, [&](int layer) { return concat(layer) == index; });
    wanted = cross ? "layers, cross-attention" : "layers, self-attention";
  }
  for (std::size_t i = 0; i < plan.modules.size(); ++i) {
    const ModuleCost& part = plan.modules[i];
    if (part.name == wanted) return i;
    if (in(part.parent == "vision_model" ? concat("vision_model.", part.name) : std::string(part.name))) return i;
  }
  return plan.modules.size();
}

/// Bytes of memory that a float tensor takes beside its file, as a parameter of format F.
template <class F>
[[nodiscard]] std::size_t copied_bytes(const ModelTensor& tensor) {
  std::size_t copied = 0;
  const bool as_stored = FormatList<F>::any([&]<class G>() {
    if constexpr (DenseFormat<G>) {
      if (tensor.dtype != dtype_of<G>()) return false;
      const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.stored.tensor->bytes.data()) % alignof(typename G::stored) == 0;
      copied = tensor.in_place() && aligned ? 0 : tensor.bytes();
      return true;
    }
    return false;
  });
  const bool is_float = tensor.dtype == Dtype::BF16 || tensor.dtype == Dtype::F16;
  return as_stored ? copied : is_float ? tensor.bytes() / sizeof(std::uint16_t) * sizeof(float) : 0;
}

}  // namespace detail

/// How a folder stores most of its linears.
[[nodiscard]] inline Storage storage_of(const ModelFiles& files) {
  std::array<std::size_t, 6> bytes{};
  constexpr std::array names{NF4::name, FP4::name, Int8::name, BF16::name, F16::name, F32::name};
  bool nested = false;
  for (const ModelTensor& tensor : files.tensors()) {
    nested = nested || tensor.name.ends_with(".nested_absmax");
    std::size_t kind = names.size();
    if (tensor.name.ends_with("proj.weight") || tensor.name.find(".fc") != tensor.name.npos) {
      if (tensor.dtype == Dtype::I8) {
        kind = 2;
      } else if (const auto parts = files.with_prefix(concat(tensor.name, ".quant_state.")); !parts.empty()) {
        kind = parts.front().name.find("fp4") == std::string::npos ? 0 : 1;
      } else {
        for (std::size_t i = 3; i < names.size(); ++i) {
          if (name(tensor.dtype) == names[i]) kind = i;
        }
      }
    }
    if (kind < names.size()) bytes[kind] += tensor.bytes();
  }
  return {names[static_cast<std::size_t>(std::ranges::max_element(bytes) - bytes.begin())], nested};
}

/// The plan of a folder: bytes are those of its files, whatever each tensor is stored in, and operations those of the model type.
/// Other tensors than the type's count for nothing here; loading refuses them.
template <class Model, class Ctx>
[[nodiscard]] Plan<Model> plan_folder(const ModelFiles& files, const Workload& work, KeyFormat keys, Ctx& ctx) {
  const Storage storage = storage_of(files);
  Plan<Model> found = plan<Model>(work, {storage, keys}, ctx);
  const Plan<Model> typical = found;
  for (ModuleCost& part : found.modules) part.cost.weights = part.cost.widened = part.cost.tensors = part.cost.parameters = 0;
  for (const ModelTensor& tensor : files.tensors()) {
    const std::size_t line = detail::line_of(found, tensor.name);
    if (line < found.modules.size()) found.modules[line].cost.weights += tensor.bytes();
  }
  const std::unique_ptr<const Model> model = std::make_unique<const Model>();
  for_each_parameter_of(ModelPart::all, *model, [&](std::string_view key, const auto& parameter) {
    using P = std::remove_cvref_t<decltype(parameter)>;
    const ModelTensor* const tensor = files.find(key);
    if (tensor == nullptr) return;
    ModuleCost& part = found.modules[detail::line_of(found, key)];
    part.cost.tensors += 1;
    part.cost.parameters += P::size;
    part.cost.widened += detail::copied_bytes<typename P::format>(*tensor);
  });
  for (std::size_t i = 0; i < found.modules.size(); ++i) {
    const Cost& type = typical.modules[i].cost;
    Cost& cost = found.modules[i].cost;
    cost.read = type.weights == 0 ? cost.weights
                                  : static_cast<std::size_t>(static_cast<double>(cost.weights) * static_cast<double>(type.read) /
                                                             static_cast<double>(type.weights));
  }
  return found;
}

namespace detail {

/// `7.2 GB`
[[nodiscard]] inline std::string readable_bytes(std::size_t bytes) {
  constexpr std::array<std::string_view, 4> units{"kB", "MB", "GB", "TB"};
  std::size_t unit = 0, tenths = (bytes + 50) / 100;
  while (tenths >= 10000 && unit + 1 < units.size()) {
    tenths = (tenths + 500) / 1000;
    ++unit;
  }
  return concat(tenths / 10, '.', tenths % 10, ' ', units[unit]);
}

/// What would fit: one thing changed, else two, else nothing. `memory(work, policy)` says what is needed.
template <class Need>
[[nodiscard]] std::string what_would_fit(const Workload& work, const PlanPolicy& policy, std::size_t available, Need&& memory) {
  constexpr std::array<std::pair<KeyFormat, std::string_view>, 2> keys{{{KeyFormat::bf16, "bf16"}, {KeyFormat::int8, "int8"}}};
  constexpr std::array storages{std::pair{Storage{Int8::name}, std::string_view("int8")},
                                std::pair{Storage{}, std::string_view("nested nf4")}};
  const auto smaller_keys = [&](const PlanPolicy& with) {
    for (const auto& [format, name] : keys) {
      const bool is_less = kernels::element_bytes(format) < kernels::element_bytes(with.keys);
      if (is_less && memory(work, PlanPolicy{with.storage, format}) <= available) return concat("keys and values in ", name);
    }
    return std::string();
  };
  std::vector<std::string> ways;
  const auto add = [&](std::string way) {
    if (!way.empty()) ways.push_back(std::move(way));
  };
  add(smaller_keys(policy));
  for (const auto& [storage, name] : storages) {
    if (storage == policy.storage) break;  // none after it is larger
    if (memory(work, PlanPolicy{storage, policy.keys}) > available) continue;
    add(concat("weights in ", name));
    break;
  }
  // The longest prompt, by halves.
  std::size_t fits = 0, most = work.tokens;
  const std::size_t least = std::max<std::size_t>(work.images, 1);
  while (most - fits > 1) {
    const std::size_t middle = fits + (most - fits) / 2;
    Workload shorter = work;
    shorter.tokens = std::max(middle, least);
    (middle >= least && memory(shorter, policy) > available ? most : fits) = middle;
  }
  if (fits >= least && fits > 0) {
    Workload shorter = work;
    shorter.tokens = fits;
    if (memory(shorter, policy) <= available) add(concat("a prompt of at most ", fits, " tokens"));
  }
  if (ways.empty()) {
    const PlanPolicy smallest{Storage{}, policy.keys};
    const std::string both = smaller_keys(smallest);
    if (!both.empty()) add(concat("weights in nested nf4 and ", both));
  }
  if (ways.empty()) return "neither other formats nor a shorter prompt would make it fit";
  std::string text = "it would fit with ";
  for (std::size_t i = 0; i < ways.size(); ++i) text += concat(i == 0 ? "" : i + 1 == ways.size() ? ", or " : ", ", ways[i]);
  return text;
}

}  // namespace detail

/// Refuses what is planned, and called `what`, if it does not fit in `available` bytes of memory. What is read of mapped files counts,
/// although the system could do without: it would have to read the weights from the disk again for every token.
/// Errors:  memory_error with the figures and what would fit
template <class Model, class Ctx>
void require_memory(const std::string& what, const Plan<Model>& all, const Workload& work, const PlanPolicy& policy, Ctx& ctx,
                    std::size_t available) {
  if (all.memory() <= available) return;
  const Cost total = all.total();
  const std::size_t weights = total.read + total.widened;
  const auto memory = [&](const Workload& other, const PlanPolicy& with) {
    const bool same = with.storage == policy.storage;
    const Plan<Model> planned = plan<Model>(other, with, ctx);
    const Cost cost = planned.total();
    return (same ? weights : cost.read + cost.widened) + cost.caches + planned.workspace;
  };
  using detail::readable_bytes;
  throw memory_error(
      Fault{.file = what,
            .expected = concat("at most ", readable_bytes(available), " of memory"),
            .found = concat(readable_bytes(all.memory()), " for ", work.tokens, " tokens and ", work.images,
                            work.images == 1 ? " picture (" : " pictures (", readable_bytes(weights), " of weights, ",
                            readable_bytes(total.caches), " of keys and values, ", readable_bytes(all.workspace), " of workspace)"),
            .note = detail::what_would_fit(work, policy, available, memory)});
}

/// The same for a folder, before it is loaded. Adapters and screened heads are not planned.
/// Errors:  memory_error; those of read_model_sizes and ModelFiles::open; config_error if the folder is not of this model type
template <class Model, class Ctx>
void require_memory(const std::string& folder, const Workload& work, KeyFormat keys, Ctx& ctx, std::size_t available) {
  const ModelSizes sizes = read_model_sizes(folder);
  if (auto difference = config_difference<Model>(sizes)) throw config_error(std::move(*difference));
  const ModelFiles files = ModelFiles::open(folder);
  Workload possible = work;
  if (!sizes.vision) possible.images = 0;
  require_memory(folder, plan_folder<Model>(files, possible, keys, ctx), possible, {storage_of(files), keys}, ctx, available);
}

}  // namespace mllama
