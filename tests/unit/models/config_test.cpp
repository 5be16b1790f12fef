// SPDX-License-Identifier: MIT
#include <doctest/doctest.h>

#include <mllama/models/mllama/config.hpp>

using namespace mllama;

TEST_CASE("numerics have the names of the releases that compute them") {
  CHECK(numerics_of("meta") == Numerics{});
  CHECK(numerics_of("meta") == Numerics{IntermediateState::input, true});
  CHECK(numerics_of("transformers_4_45") == Numerics{IntermediateState::input, false});
  CHECK(numerics_of("transformers_4_55") == Numerics{IntermediateState::encoder_output, false});
  CHECK(numerics_of("transformers_4_56") == Numerics{IntermediateState::output, false});
  CHECK(numerics_of("meta_rows") == Numerics{IntermediateState::output, true});
  for (const char* other : {"", "Meta", "meta ", "transformers"}) CHECK_FALSE(numerics_of(other));
}
