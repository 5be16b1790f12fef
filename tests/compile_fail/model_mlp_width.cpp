// SPDX-License-Identifier: MIT
// error: SelfAttentionLayer<C>: C::mlp must take rows of C::hidden
// values: 4000 == 4096
#include <mllama/models/mllama/text.hpp>

#ifdef MLLAMA_WRONG
constexpr int width = 4000;
#else
constexpr int width = 4096;
#endif

struct Other : mllama::Text11B {
  template <class C>
  using mlp = mllama::GatedMLP<typename C::weights, width, C::inner>;
};
static_assert(sizeof(mllama::SelfAttentionLayer<Other>) > 0);
