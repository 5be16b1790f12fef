// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace mllama_test {

/// How often this program has allocated: its operators new are replaced by counting ones.
std::size_t allocations() noexcept;

}  // namespace mllama_test
