// SPDX-License-Identifier: MIT
// The one main function of all test programs; the cases are in the other files.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
