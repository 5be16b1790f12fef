// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/layers/gate.hpp>

TEST_CASE("a gate is closed at 0 and opens like the hyperbolic tangent, in both directions") {
  float value = 0;
  mllama::TanhGate gate;
  gate.weights.data = &value;
  CHECK(gate() == 0);
  value = 20;
  CHECK(gate() == 1);
  value = 0.5F;
  const float half = gate();
  CHECK(half == doctest::Approx(0.46211715726));
  value = -0.5F;
  CHECK(gate() == -half);
}

static_assert(mllama::ParameterLeaf<mllama::TanhGate>);
static_assert(mllama::TanhGate::shape.size() == 1 && mllama::TanhGate::shape[0] == 1);
