// SPDX-License-Identifier: MIT
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <memory_resource>
#include <new>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mllama/core/context.hpp>
#include <mllama/core/visit.hpp>
#include <mllama/core/workspace.hpp>
#include <mllama/generate/picture.hpp>
#include <mllama/generate/session.hpp>
#include <mllama/io/float_tensor.hpp>
#include <mllama/models/mllama/plan.hpp>

/// The whole plan of a model: what its type says, and what memory passes take, which a rehearsal finds out: the model's own code runs
/// with weights of nothing and computes nothing, but takes and gives back what it needs. So no formula can differ from it.

namespace mllama {

/// A source of memory that counts. What it hands out is address space, which takes memory where it is written only.
class CountedMemory final : public MemorySource {
 public:
  /// Bytes in use, and the most that there have been since the last reset.
  [[nodiscard]] std::size_t used() const noexcept { return used_; }
  [[nodiscard]] std::size_t peak() const noexcept { return peak_; }
  void reset_peak() noexcept { peak_ = used_; }

 private:
  static constexpr std::size_t small = std::size_t{1} << 16U;

  void* do_allocate(std::size_t bytes, std::size_t alignment) override {
    void* place = nullptr;
    if (bytes < small) {
      place = std::pmr::new_delete_resource()->allocate(bytes, alignment);
    } else {
      place = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (place == MAP_FAILED) throw std::bad_alloc();
    }
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return place;
  }
  void do_deallocate(void* place, std::size_t bytes, std::size_t alignment) override {
    used_ -= bytes;
    if (bytes < small) {
      std::pmr::new_delete_resource()->deallocate(place, bytes, alignment);
    } else {
      ::munmap(place, bytes);
    }
  }
  [[nodiscard]] bool do_is_equal(const MemorySource& other) const noexcept override { return this == &other; }

  std::size_t used_ = 0, peak_ = 0;
};

namespace detail {

/// A model whose parameters have formats and sizes, and share one run of zeros.
template <class Model>
class HollowModel {
 public:
  explicit HollowModel(const Storage& storage) : model_(std::make_unique<Model>()) {
    std::size_t most = 0;
    for_each_parameter(*model_, [&](const std::string&, const auto& parameter) {
      most = std::max(most, std::remove_cvref_t<decltype(parameter)>::size * sizeof(float));
    });
    zeros_ = SourcedBytes(memory_, most);
    for_each_parameter(*model_, [&](const std::string&, auto& parameter) {
      using P = std::remove_cvref_t<decltype(parameter)>;
      PlannedFormat<typename P::format>::with(storage, [&]<class G>() {
        if constexpr (P::shape.size() != 0) assign(parameter.weights, hollow<G, P>(storage));
      });
    });
  }
  [[nodiscard]] const Model& model() const noexcept { return *model_; }

 private:
  template <class T>
  [[nodiscard]] const T* zeros() const noexcept {
    return reinterpret_cast<const T*>(zeros_.get());
  }
  template <class G, class P>
  [[nodiscard]] Weights<G> hollow(const Storage& storage) const {
    Weights<G> weights;
    weights.rows = P::shape[0];
    weights.columns = P::size / P::shape[0];
    if constexpr (BlockFormat<G> || PackedFormat<G>) {
      weights.codes = zeros<std::uint8_t>();
      if (storage.nested) {
        weights.absmax_codes = zeros<std::uint8_t>();
        weights.nested_absmax = weights.nested_map = zeros<float>();
      } else {
        weights.absmax = zeros<float>();
      }
    } else if constexpr (RowFormat<G>) {
      weights.codes = zeros<typename G::code>();
      weights.scales = zeros<float>();
    } else {
      weights.data = zeros<typename G::stored>();
    }
    return weights;
  }

  CountedMemory memory_;
  SourcedBytes zeros_;
  std::unique_ptr<Model> model_;
};

/// One go through the work of a plan. Returns the most memory that it took, without what is kept of pictures and text.
template <class Model, class Ctx>
[[nodiscard]] std::size_t rehearse(const Model& model, const Workload& work, Ctx& ctx, bool only_pictures = false) {
  using C = typename Model::Vision;
  using Text = typename Model::Text;
  CountedMemory memory;
  const auto rehearsal = ctx.rehearse(memory);
  std::vector<Picture<Model>> pictures;
  for (std::size_t i = 0; i < work.images; ++i) {
    using Pixels = Tensor<float, Dim<C::tiles>, Dim<C::channels>, Dim<C::image>, Dim<C::image>>;
    const Pixels pixels(typename Pixels::Lengths{}, ctx.memory());
    PictureTiles<C> tiles{.pixels = pixels, .aspect_ratio_id = 1, .real_tiles = {}};
    tiles.real_tiles.fill(true);
    pictures.push_back(std::allocate_shared<const EncodedImage<Text>>(std::pmr::polymorphic_allocator<>(&ctx.memory()),
                                                                      model.encode(tiles, Model::numerics, ctx)));
  }
  const std::size_t of_pictures = work.images * picture_bytes<Model>(ctx.key_format());
  if (only_pictures || work.tokens == 0) return memory.peak() - of_pictures;
  Session<Model, Ctx> session(model, ctx);
  session.reserve(work.positions());
  std::vector<std::int32_t> ids(work.tokens, 0);
  std::fill_n(ids.begin(), std::min(work.images, work.tokens), std::int32_t{Text::image_token});
  pictures.resize(std::min(work.images, work.tokens));
  static_cast<void>(session.append(ids, pictures));
  const std::int32_t next = 0;
  for (std::size_t step = work.tokens; step < work.rows(); ++step) static_cast<void>(session.append({&next, 1}));
  return memory.peak() - of_pictures - text_cache_bytes<Text>(ctx.key_format(), work.positions());
}

}  // namespace detail

/// The plan with the memory of passes, in the arithmetic and with the threads of this context.
/// Costs:   milliseconds, and some of memory: a few bytes for each token and parameters' tables
template <class Model, class Ctx>
[[nodiscard]] Plan<Model> plan(const Workload& work, const PlanPolicy& policy, Ctx& ctx) {
  Plan<Model> all = plan<Model>(work, policy);
  const detail::HollowModel<Model> hollow(policy.storage);
  const KeyFormat before = ctx.key_format();
  ctx.key_format(policy.keys);
  all.workspace = detail::rehearse(hollow.model(), work, ctx);
  if (work.images != 0) all.vision_workspace = detail::rehearse(hollow.model(), work, ctx, true);
  Workload text = work;
  text.images = 0;
  all.text_workspace = detail::rehearse(hollow.model(), text, ctx);
  ctx.key_format(before);
  return all;
}

}  // namespace mllama
