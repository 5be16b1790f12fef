// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mllama/core/check.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/generate/adapter_file.hpp>
#include <mllama/io/float_tensor.hpp>
#include <mllama/layers/lora.hpp>

/// PEFT's LoRA adapters on a loaded model, unmerged: several at once, each with a strength that may change at any time.

namespace mllama {

namespace detail {

/// A parameter of a model, whatever its format.
template <class Ctx>
class AdapterPlace {
 public:
  AdapterPlace(std::string_view key, std::span<const std::size_t> sizes) : name(canonical_name(key)), shape(sizes) {}
  AdapterPlace(const AdapterPlace&) = delete;
  AdapterPlace& operator=(const AdapterPlace&) = delete;
  virtual ~AdapterPlace() = default;

  [[nodiscard]] virtual bool holds(Ctx& ctx, const FileTensor& copy) const = 0;
  [[nodiscard]] virtual bool takes(const FileTensor& tensor) const = 0;
  virtual void bind(const FileTensor& tensor, Elements& elements) = 0;
  [[nodiscard]] virtual std::vector<RowSquares> squares(Ctx& ctx, const LowRank& change) const = 0;

  /// Of the module that it is the weight of.
  [[nodiscard]] std::string_view module() const { return std::string_view(name).substr(0, name.rfind('.')); }

  std::string name;  ///< canonical
  std::span<const std::size_t> shape;
  LowRankBranches* branches = nullptr;  ///< where its changes belong, if it takes any
  bool is_table = false;                ///< changes are those of an embedding
};

template <class Ctx, class F>
class AdapterPlaceOf final : public AdapterPlace<Ctx> {
 public:
  AdapterPlaceOf(std::string_view key, std::span<const std::size_t> sizes, Weights<F>& weights)
      : AdapterPlace<Ctx>(key, sizes), weights_(&weights) {}

  [[nodiscard]] bool holds(Ctx& ctx, const FileTensor& copy) const override { return is_copy(copy, *weights_, ctx.threads()); }
  [[nodiscard]] bool takes(const FileTensor& tensor) const override {
    Weights<F> trial{};
    Elements scratch;
    return bind_float(trial, tensor, this->shape, scratch);
  }
  void bind(const FileTensor& tensor, Elements& elements) override {
    static_cast<void>(bind_float(*weights_, tensor, this->shape, elements));
  }
  [[nodiscard]] std::vector<RowSquares> squares(Ctx& ctx, const LowRank& change) const override {
    return row_squares(ctx, *weights_, change);
  }

 private:
  Weights<F>* weights_;
};

template <class Ctx>
using AdapterPlaces = std::vector<std::unique_ptr<AdapterPlace<Ctx>>>;

template <class Ctx, class F>
AdapterPlace<Ctx>& add_place(AdapterPlaces<Ctx>& places, const std::string& prefix, std::string_view key,
                             std::span<const std::size_t> shape, Weights<F>& weights) {
  places.push_back(std::make_unique<AdapterPlaceOf<Ctx, F>>(concat(prefix, key), shape, weights));
  return *places.back();
}

/// All parameters below `parent` that have weights: a save of the text model alone has none of the vision part.
template <class Ctx, class Parent>
void collect_places(AdapterPlaces<Ctx>& places, Parent& parent, const std::string& prefix) {
  for_each_child(parent, [&]<class Child>(std::string_view key, Child& child) {
    if constexpr (ParameterLeaf<Child>) {
      if (!child.weights.loaded()) return;
      AdapterPlace<Ctx>& place = add_place(places, prefix, key, Child::shape, child.weights);
      if constexpr (requires { parent.branches; }) {
        if (key == "weight") place.branches = &parent.branches;
        place.is_table = requires { parent.padding_index; };
      }
    } else {
      collect_places(places, child, concat(prefix, key, "."));
    }
  });
}

}  // namespace detail

/// The adapters of one model, whose type must take them: `Adapted<Llama32Vision11B>`, say. They work in the order in which they were
/// added, as PEFT's active adapters do. The model refers to them: they must outlive its use.
///
///     Context ctx;
///     auto model = load<Adapted<Llama32Vision11B>>("Llama-3.2-11B-Vision-Instruct");
///     Adapters adapters;
///     adapters.add(model, "my-adapter", ctx);
///     adapters.scale(0, 0.5);
///
/// A change of strength takes effect with the next forward pass. Text and pictures that were read before keep, in their caches, what
/// the adapters made of them then. Not for use while a forward pass runs.
class Adapters {
 public:
  /// Reads an adapter and adds it to a model, or to what `load` or `load_weights` gave. It works `scale` times as strong as it says of
  /// itself. All or nothing: after an error the model is as it was.
  /// Errors:  those of AdapterFile; shape_error where the adapter has a tensor that is not for this model, in name, shape or type;
  ///          config_error if it holds a copy of a tensor of the base that is not the base's, if it replaces tensors and is not to
  ///          have scale 1, or if what it replaces another adapter changes or replaces.
  /// Costs:   with magnitudes (DoRA), two passes over the matrices that it changes
  template <class Loaded, class Ctx>
  void add(Loaded& loaded, const std::string& folder, Ctx& ctx, double scale = 1) {
    if constexpr (requires { *loaded.weights.model; }) {
      add_to(*loaded.weights.model, folder, ctx, scale);
    } else if constexpr (requires { *loaded.model; }) {
      add_to(*loaded.model, folder, ctx, scale);
    } else {
      add_to(loaded, folder, ctx, scale);
    }
  }

  [[nodiscard]] std::size_t size() const noexcept { return adapters_.size(); }
  /// The folder, as given.
  [[nodiscard]] const std::string& name(std::size_t index) const { return at(index).folder; }
  /// What its configuration has that was ignored although it may matter.
  [[nodiscard]] const std::vector<std::string>& notices(std::size_t index) const { return at(index).file.config().notices; }

  [[nodiscard]] double scale(std::size_t index) const { return at(index).state.factor; }
  /// Errors:  config_error if the adapter replaces tensors, which is done once and for all; input_error for infinity and NaN.
  void scale(std::size_t index, double factor) {
    check_scale(factor);
    at(index).check_strength(factor, true);
    at(index).state.factor = factor;
  }

  [[nodiscard]] bool is_on(std::size_t index) const { return at(index).state.on; }
  /// Switches an adapter on or off. With magnitudes (DoRA), off is not the same as scale 0.
  /// Errors:  config_error if the adapter replaces tensors.
  void turn(std::size_t index, bool on) {
    at(index).check_strength(at(index).state.factor, on);
    at(index).state.on = on;
  }

 private:
  struct Adapter {
    Adapter(std::string name, double scale) : folder(std::move(name)), file(folder), state{scale, true} {}

    void check_strength(double factor, bool on) const {
      check<config_error>(replaced.empty() || (factor == 1 && on), [&] {
        return Fault{.file = folder,
                     .field = "scale",
                     .expected = concat("1, because the adapter replaces ", replaced.front()),
                     .found = on ? concat(factor) : "off"};
      });
    }

    std::string folder;
    AdapterFile file;
    AdapterState state;
    std::vector<std::unique_ptr<LowRankBranch>> branches;
    std::vector<std::string> changed;   ///< parameters that branches change
    std::vector<std::string> replaced;  ///< parameters that tensors of the file take the place of
    Elements elements;
  };

  [[nodiscard]] const Adapter& at(std::size_t index) const {
    check(index < adapters_.size(), [&] {
      return Fault{.field = "adapter", .expected = concat("a number below ", adapters_.size()), .found = concat(index)};
    });
    return *adapters_[index];
  }
  [[nodiscard]] Adapter& at(std::size_t index) { return const_cast<Adapter&>(std::as_const(*this).at(index)); }

  static void check_scale(double factor) {
    check(std::isfinite(factor), [&] { return Fault{.field = "scale", .expected = "a finite number", .found = concat(factor)}; });
  }

  template <class Model, class Ctx>
  void add_to(Model& model, const std::string& folder, Ctx& ctx, double scale) {
    check_scale(scale);
    check(adapters_.empty() || model_ == &model,
          [&] { return Fault{.file = folder, .expected = "the model of the adapters added before", .found = "another"}; });
    detail::AdapterPlaces<Ctx> places;
    detail::collect_places(places, model, {});
    add_to_places(places, folder, ctx, scale);
    model_ = &model;
  }

  template <class Ctx>
  void add_to_places(detail::AdapterPlaces<Ctx>& places, const std::string& folder, Ctx& ctx, double scale) {
    auto adapter = std::make_unique<Adapter>(folder, scale);
    std::vector<std::pair<LowRankBranches*, LowRankBranch*>> changes;
    std::vector<std::pair<detail::AdapterPlace<Ctx>*, const FileTensor*>> replacements;
    for (const auto& place : places) {
      if (LowRankBranch* const branch = new_branch(*adapter, *place, ctx)) changes.emplace_back(place->branches, branch);
      if (const FileTensor* const tensor = new_tensor(*adapter, *place, ctx)) replacements.emplace_back(place.get(), tensor);
    }
    adapter->file.check_all_used();
    adapter->check_strength(scale, true);
    check_replacements(*adapter);

    Adapter& added = *adapters_.emplace_back(std::move(adapter));  // from here on what the model refers to stays
    for (const auto& [place, tensor] : replacements) place->bind(*tensor, added.elements);
    for (const auto& [branches, branch] : changes) branches->attach(*branch);
  }

  /// An adapter's change for a place, if it has one.
  template <class Ctx>
  static LowRankBranch* new_branch(Adapter& adapter, const detail::AdapterPlace<Ctx>& place, Ctx& ctx) {
    if (place.branches == nullptr) return nullptr;
    const auto change = place.is_table ? adapter.file.embedding(place.module(), place.shape[0], place.shape[1])
                                       : adapter.file.linear(place.module(), place.shape[0], place.shape[1]);
    if (!change) return nullptr;
    LowRankBranch& branch = *adapter.branches.emplace_back(std::make_unique<LowRankBranch>());
    branch.change = *change;
    branch.adapter = &adapter.state;
    if (branch.has_magnitude()) branch.squares = place.squares(ctx, *change);
    adapter.changed.push_back(place.name);
    return &branch;
  }

  /// The tensor that takes a place, if there is one.
  template <class Ctx>
  static const FileTensor* new_tensor(Adapter& adapter, const detail::AdapterPlace<Ctx>& place, Ctx& ctx) {
    const auto fault = [&](const FileTensor& tensor, std::string expected, std::string found, std::string note) {
      return Fault{.file = adapter.file.path(),
                   .field = tensor.name,
                   .expected = std::move(expected),
                   .found = std::move(found),
                   .note = std::move(note)};
    };
    if (const FileTensor* const copy = adapter.file.copy(place.name, place.shape)) {
      check<config_error>(place.holds(ctx, *copy), [&] {
        return fault(*copy, "the numbers of the base", "others", "the adapter was made for another base");
      });
    }
    const FileTensor* const tensor = adapter.file.replacement(place.name, place.shape);
    if (tensor == nullptr) return nullptr;
    check<shape_error>(place.takes(*tensor), [&] {
      return fault(*tensor, "an element type that the model type takes here", std::string(mllama::name(tensor->dtype)), {});
    });
    adapter.replaced.push_back(place.name);
    return tensor;
  }

  /// A parameter is replaced once, and what is replaced is not changed.
  void check_replacements(const Adapter& added) const {
    const auto check_against = [&](const Adapter& other, const std::vector<std::string>& mine,
                                   const std::vector<std::string>& theirs, std::string_view what) {
      for (const std::string& parameter : mine) {
        check<config_error>(std::ranges::find(theirs, parameter) == theirs.end(), [&] {
          return Fault{.file = added.file.path(), .field = parameter, .note = concat(other.folder, " ", what)};
        });
      }
    };
    check_against(added, added.replaced, added.changed, "both replaces and changes it");
    for (const auto& other : adapters_) {
      check_against(*other, added.replaced, other->replaced, "replaces it, too");
      check_against(*other, added.replaced, other->changed, "changes it");
      check_against(*other, added.changed, other->replaced, "replaces it");
    }
  }

  const void* model_ = nullptr;
  std::vector<std::unique_ptr<Adapter>> adapters_;
};

}  // namespace mllama
