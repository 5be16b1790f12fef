// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <type_traits>

#include <mllama/core/format.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/kernels/keys.hpp>
#include <mllama/models/mllama/cache.hpp>
#include <mllama/models/mllama/mllama.hpp>

/// What a model will cost, from its type alone: bytes of weights and caches, and operations, module by module. All of it is known at
/// compile time. What passes take beside that, which depends on back end and threads, is in generate/plan.hpp.

namespace mllama {

/// What a model is planned for: one prompt, read at once, and tokens that are generated one by one.
struct Workload {
  std::size_t tokens = 512;    ///< of the prompt, those of pictures included
  std::size_t images = 1;      ///< pictures; every row sees all tiles of all of them
  std::size_t new_tokens = 1;  ///< the first of them comes with the prompt

  /// Positions that caches have room for.
  [[nodiscard]] constexpr std::size_t positions() const noexcept { return tokens + new_tokens; }
  /// Rows that the language model computes: the last token is not run.
  [[nodiscard]] constexpr std::size_t rows() const noexcept { return tokens + (new_tokens == 0 ? 0 : new_tokens - 1); }
};

/// How a checkpoint stores its linears: a format's name. What is never quantised, as `lm_head`, is bfloat16 then.
struct Storage {
  std::string_view format = NF4::name;
  bool nested = true;  ///< 4-bit scales are quantised themselves

  friend constexpr bool operator==(const Storage&, const Storage&) = default;
  [[nodiscard]] constexpr bool is_float() const noexcept {
    return format == F32::name || format == F16::name || format == BF16::name;
  }
};

[[nodiscard]] constexpr std::optional<Storage> storage_of(std::string_view name, bool nested = true) {
  if (name == "nf4") return Storage{NF4::name, nested};
  if (name == "fp4") return Storage{FP4::name, nested};
  if (name == "int8") return Storage{Int8::name, nested};
  if (name == "bf16") return Storage{BF16::name, nested};
  if (name == "f16") return Storage{F16::name, nested};
  if (name == "f32") return Storage{F32::name, nested};
  return std::nullopt;
}

/// How, beside its type and its work, a model is run.
struct PlanPolicy {
  Storage storage = {};
  KeyFormat keys = KeyFormat::f32;
};

/// What a module, or a whole model, costs.
struct Cost {
  std::size_t tensors = 0, parameters = 0;
  std::size_t weights = 0;  ///< bytes in files
  std::size_t read = 0;     ///< bytes of them that are read: of tables, no more than the rows that the work needs
  std::size_t widened = 0;  ///< bytes of memory for what is not used as the files have it: vectors of 16 bits
  std::size_t caches = 0;   ///< bytes of keys and values that are kept
  double flops = 0;         ///< additions and multiplications of products and attention

  constexpr Cost& operator+=(const Cost& other) noexcept {
    tensors += other.tensors;
    parameters += other.parameters;
    weights += other.weights;
    read += other.read;
    widened += other.widened;
    caches += other.caches;
    flops += other.flops;
    return *this;
  }
  [[nodiscard]] constexpr Cost times(std::size_t count) const noexcept {
    return {tensors * count,
            parameters * count,
            weights * count,
            read * count,
            widened * count,
            caches * count,
            flops * static_cast<double>(count)};
  }
};

/// Bytes of one sequence's keys and values in all self-attention layers.
template <class Text>
[[nodiscard]] constexpr std::size_t text_cache_bytes(KeyFormat format, std::size_t positions) noexcept {
  return 2 * TextShape<Text>::self_layers * kernels::kept_bytes(format, TextShape<Text>::keys, positions);
}
/// Bytes of one picture's keys and values in all cross-attention layers.
template <class Model>
[[nodiscard]] constexpr std::size_t picture_bytes(KeyFormat format) noexcept {
  using Text = typename Model::Text;
  return 2 * TextShape<Text>::cross_layers *
         kernels::kept_bytes(format, TextShape<Text>::keys, VisionShape<typename Model::Vision>::image_tokens);
}

namespace detail {

/// Calls `use.template operator()<G>()` with the format that a parameter of format F has in files of this storage.
template <class F>
struct PlannedFormat {
  template <class Use>
  static constexpr void with(const Storage&, Use&& use) {
    use.template operator()<F>();
  }
};
template <class First, class... Rest>
struct PlannedFormat<AnyOf<First, Rest...>> {
  template <class Use>
  static constexpr void with(const Storage& storage, Use&& use) {
    // Only what is quantised unless somebody asks for more is so here.
    const bool takes = storage.is_float() || !DenseFormat<First>;
    bool found = false;
    const auto consider = [&]<class G>() {
      if (found || !takes || G::name != storage.format) return;
      found = true;
      use.template operator()<G>();
    };
    (consider.template operator()<First>(), ..., consider.template operator()<Rest>());
    if (!found) use.template operator()<First>();
  }
};

/// Bytes of a parameter in a file.
template <class G, class P>
[[nodiscard]] constexpr std::size_t file_bytes(const Storage& storage) noexcept {
  if constexpr (BlockFormat<G> || PackedFormat<G>) {
    constexpr std::size_t blocks = (P::size + 63) / 64;
    return (P::size + 1) / 2 +
           (storage.nested ? blocks + (blocks + 255) / 256 * sizeof(float) + 256 * sizeof(float) : blocks * sizeof(float));
  } else if constexpr (RowFormat<G>) {
    return P::size + P::shape[0] * sizeof(float);
  } else if constexpr (P::shape.size() <= 1) {  // norms, biases, gates: they have the type that is computed in
    return P::size * (storage.format == F32::name ? sizeof(float) : sizeof(std::uint16_t));
  } else {
    return P::size * sizeof(typename G::stored);
  }
}

/// Rows that modules work on.
struct PlannedRows {
  double linear = 0;      ///< of a linear
  double keys = 0;        ///< of those that make keys and values of pictures
  double patches = 0;     ///< of a convolution
  double pairs = 0;       ///< of a query row and a key row that see each other
  std::size_t table = 0;  ///< of tables that are read
};

template <class M>
concept HasQueries = requires(const M& module) { M::visit(module, IgnoreMember{}), module.q_proj, module.k_proj; };

template <class M>
[[nodiscard]] constexpr Cost cost_of(const M& module, const Storage& storage, const PlannedRows& rows) {
  Cost cost;
  if constexpr (ModuleList<M>) {  // all alike
    if (module.size() != 0) cost = cost_of(module[0], storage, rows).times(module.size());
  } else {
    if constexpr (HasQueries<M>) {  // 2 for scores, 2 for sums of values
      cost.flops += 4 * rows.pairs * static_cast<double>(std::remove_cvref_t<decltype(module.q_proj)>::outputs);
    }
    M::visit(module, [&](std::string_view key, const auto& child) {
      using Child = std::remove_cvref_t<decltype(child)>;
      if constexpr (ParameterLeaf<Child>) {
        cost += Cost{.tensors = 1, .parameters = Child::size};
        PlannedFormat<typename Child::format>::with(storage, [&]<class G>() {
          const std::size_t bytes = file_bytes<G, Child>(storage);
          cost.weights += bytes;
          cost.read += requires { module.padding_index; } ? std::min(bytes, bytes / Child::shape[0] * rows.table) : bytes;
          if (Child::shape.size() <= 1 && storage.format != F32::name) cost.widened += Child::size * sizeof(float);
        });
        if constexpr (requires { M::inputs; }) {
          if (key == "weight") cost.flops += 2 * rows.linear * static_cast<double>(Child::size);
        } else if constexpr (Child::shape.size() == 4) {
          cost.flops += 2 * rows.patches * static_cast<double>(Child::size);
        }
      } else {
        PlannedRows inner = rows;
        if constexpr (requires { module.q_norm; }) {  // cross-attention
          if (key == "k_proj" || key == "v_proj") inner.linear = rows.keys;
        }
        if constexpr (requires { M::top; }) {  // a mixture
          if (key == "experts") inner.linear *= static_cast<double>(M::top) / static_cast<double>(M::count);
        }
        cost += cost_of(child, storage, inner);
      }
    });
  }
  return cost;
}

template <class M>
[[nodiscard]] consteval std::size_t count_children() {
  std::size_t count = 0;
  const M module{};
  M::visit(module, [&](std::string_view, const auto&) { ++count; });
  return count;
}

}  // namespace detail

/// A line of a plan.
struct ModuleCost {
  std::string_view parent, name;  ///< `vision_model`, `transformer`
  Cost cost = {};
};

/// What a model costs, module by module: those of the vision model, the projector, embedding, layers of both kinds, norm and head.
/// Layers that are left out (`exit_after`), or that see no picture, cost no operations.
template <class Model>
struct Plan {
  static constexpr std::size_t vision_modules = detail::count_children<typename Model::VisionPart>();
  std::array<ModuleCost, vision_modules + 6> modules{};
  // Of memory beside that, known with a context only, see generate/plan.hpp: intermediate tensors and what a session holds.
  std::size_t vision_workspace = 0;  ///< bytes, while pictures are encoded
  std::size_t text_workspace = 0;    ///< bytes, while the language model runs
  std::size_t workspace = 0;         ///< bytes at the peak of all; may be less than both, which come before caches are full

  [[nodiscard]] constexpr Cost total() const noexcept {
    Cost sum;
    for (const ModuleCost& module : modules) sum += module.cost;
    return sum;
  }
  /// Bytes of memory at the peak. What is read of mapped files counts: the system could take it away, but every token needs it again.
  [[nodiscard]] constexpr std::size_t memory() const noexcept {
    const Cost sum = total();
    return sum.read + sum.widened + sum.caches + workspace;
  }
};

/// Computed by the compiler where its arguments are constants: no model object, no file.
template <class Model>
[[nodiscard]] constexpr Plan<Model> plan(const Workload& work, const PlanPolicy& policy = {}) {
  using Vision = typename Model::Vision;
  using Text = typename Model::Text;
  constexpr typename Model::VisionPart vision{};
  constexpr TextModel<Text> text{};
  Plan<Model> costs;
  auto* line = costs.modules.data();
  const auto images = static_cast<double>(work.images), rows = static_cast<double>(work.rows());

  const auto vision_rows = images * static_cast<double>(Model::VisionPart::picture_rows);
  const detail::PlannedRows of_vision{.linear = vision_rows,
                                      .patches = images * static_cast<double>(Vision::tiles * VisionShape<Vision>::patches),
                                      .pairs = vision_rows * static_cast<double>(Model::VisionPart::picture_rows),
                                      .table = work.images};
  Model::VisionPart::visit(vision, [&](std::string_view name, const auto& child) {
    using Child = std::remove_cvref_t<decltype(child)>;
    Cost cost;
    if constexpr (ParameterLeaf<Child>) {
      constexpr auto bytes = detail::file_bytes<nominal_format<typename Child::format>, Child>;
      cost = {.tensors = 1,
              .parameters = Child::size,
              .weights = bytes(policy.storage),
              .read = bytes(policy.storage),
              .widened = policy.storage.format == F32::name ? 0 : Child::size * sizeof(float)};
    } else {
      cost = detail::cost_of(child, policy.storage, of_vision);
    }
    *line++ = {"vision_model", name, cost};
  });
  const double image_rows = images * VisionShape<Vision>::image_tokens;
  *line++ = {"", "multi_modal_projector",
             detail::cost_of(typename Model::ProjectorPart{}, policy.storage, detail::PlannedRows{.linear = image_rows})};

  double pairs = rows * (rows + 1) / 2;  // of positions that do not look ahead
  if (const auto beyond = rows - static_cast<double>(Text::window); Text::window != 0 && beyond > 0) {
    pairs -= beyond * (beyond + 1) / 2;
  }
  std::size_t computed_self = 0, computed_cross = 0;
  for (std::size_t i = 0; i < TextShape<Text>::depth; ++i) ++(TextShape<Text>::schedule[i].cross ? computed_cross : computed_self);
  // Operations of the layers that are computed, bytes of all.
  const auto layers = [&](const auto& list, std::size_t computed, const detail::PlannedRows& of_layer, std::size_t caches) {
    Cost all = detail::cost_of(list, policy.storage, of_layer);
    if (list.size() != 0) all.flops = all.flops / static_cast<double>(list.size()) * static_cast<double>(computed);
    all.caches = caches;
    return all;
  };
  constexpr std::string_view parent = "language_model.model", cross_layers = "layers, cross-attention";
  *line++ = {parent, "embed_tokens", detail::cost_of(text.embed_tokens, policy.storage, {.table = work.rows()})};
  *line++ = {parent, "layers, self-attention",
             layers(text.layers.self, computed_self, {.linear = rows, .pairs = pairs},
                    text_cache_bytes<Text>(policy.keys, work.positions()))};
  // Keys and values of pictures are made for all layers.
  Cost cross = layers(text.layers.cross, computed_cross, {.linear = images == 0 ? 0 : rows, .pairs = rows * image_rows},
                      work.images * picture_bytes<Model>(policy.keys));
  cross.flops += detail::cost_of(text.layers.cross, policy.storage, detail::PlannedRows{.keys = image_rows}).flops;
  *line++ = {parent, cross_layers, cross};
  *line++ = {parent, "norm", detail::cost_of(text.norm, policy.storage, {})};
  *line++ = {"language_model", "lm_head",
             detail::cost_of(Linear<typename Text::head_weights, Text::hidden, Text::vocab>{}, policy.storage,
                             detail::PlannedRows{.linear = static_cast<double>(work.rows() - work.tokens + 1)})};
  if (work.images == 0) {  // a run without pictures is plain Llama
    for (ModuleCost& module : costs.modules) {
      const bool is_llama = module.parent.starts_with("language_model") && module.name != cross_layers;
      if (!is_llama) module.cost.read = 0;
    }
  }
  return costs;
}

}  // namespace mllama
