// SPDX-License-Identifier: MIT
#pragma once

/// stb_image's PNG and JPEG decoders as `mllama::detail::stb`, in quarantine: internal linkage in a namespace of their own, so that
/// programs may have an stb_image of their own, with other settings, before or after this header; no macro is left behind.
/// Only <mllama/io/image.hpp> includes this.

// stb_image includes these itself; here they come first, so that nothing of theirs lands in the namespace.
#include <limits.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <emmintrin.h>
#endif
#if defined(_MSC_VER)
#include <intrin.h>
#endif

#include <cstddef>
#include <cstdlib>

namespace mllama::detail {

/// The largest block that stb_image gets on this thread: a small file may ask for any amount.
inline thread_local std::size_t stb_largest_block = 0;

/// Zeroed, because parts of a picture that a broken file leaves out would else show what the memory held before.
inline void* stb_allocate(std::size_t bytes) noexcept { return bytes <= stb_largest_block ? std::calloc(1, bytes) : nullptr; }
inline void* stb_reallocate(void* block, std::size_t bytes) noexcept {
  return bytes <= stb_largest_block ? std::realloc(block, bytes) : nullptr;
}

}  // namespace mllama::detail

#pragma push_macro("STBI_INCLUDE_STB_IMAGE_H")
#pragma push_macro("STB_IMAGE_IMPLEMENTATION")
#pragma push_macro("STB_IMAGE_STATIC")
#pragma push_macro("STBIDEF")
#pragma push_macro("STBI_ASSERT")
#pragma push_macro("STBI_MALLOC")
#pragma push_macro("STBI_REALLOC")
#pragma push_macro("STBI_REALLOC_SIZED")
#pragma push_macro("STBI_FREE")
#pragma push_macro("STBI_MAX_DIMENSIONS")
#pragma push_macro("STBI_NO_STDIO")
#pragma push_macro("STBI_NO_LINEAR")
#pragma push_macro("STBI_NO_HDR")
#pragma push_macro("STBI_NO_BMP")
#pragma push_macro("STBI_NO_PSD")
#pragma push_macro("STBI_NO_TGA")
#pragma push_macro("STBI_NO_GIF")
#pragma push_macro("STBI_NO_PIC")
#pragma push_macro("STBI_NO_PNM")
#pragma push_macro("STBI_NO_JPEG")
#pragma push_macro("STBI_NO_PNG")
#pragma push_macro("STBI_NO_ZLIB")
#pragma push_macro("STBI_NO_FAILURE_STRINGS")
#pragma push_macro("STBI_FAILURE_USERMSG")
#pragma push_macro("STBI_ONLY_JPEG")
#pragma push_macro("STBI_ONLY_PNG")
#pragma push_macro("STBI_ONLY_BMP")
#pragma push_macro("STBI_ONLY_PSD")
#pragma push_macro("STBI_ONLY_TGA")
#pragma push_macro("STBI_ONLY_GIF")
#pragma push_macro("STBI_ONLY_HDR")
#pragma push_macro("STBI_ONLY_PIC")
#pragma push_macro("STBI_ONLY_PNM")
#pragma push_macro("stbi__err")
#undef STBI_INCLUDE_STB_IMAGE_H
#undef STB_IMAGE_IMPLEMENTATION
#undef STB_IMAGE_STATIC
#undef STBIDEF
#undef STBI_ASSERT
#undef STBI_MALLOC
#undef STBI_REALLOC
#undef STBI_REALLOC_SIZED
#undef STBI_FREE
#undef STBI_MAX_DIMENSIONS
#undef STBI_NO_STDIO
#undef STBI_NO_LINEAR
#undef STBI_NO_HDR
#undef STBI_NO_BMP
#undef STBI_NO_PSD
#undef STBI_NO_TGA
#undef STBI_NO_GIF
#undef STBI_NO_PIC
#undef STBI_NO_PNM
#undef STBI_NO_JPEG
#undef STBI_NO_PNG
#undef STBI_NO_ZLIB
#undef STBI_NO_FAILURE_STRINGS
#undef STBI_FAILURE_USERMSG
#undef STBI_ONLY_JPEG
#undef STBI_ONLY_PNG
#undef STBI_ONLY_BMP
#undef STBI_ONLY_PSD
#undef STBI_ONLY_TGA
#undef STBI_ONLY_GIF
#undef STBI_ONLY_HDR
#undef STBI_ONLY_PIC
#undef STBI_ONLY_PNM
#undef stbi__err

#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ASSERT(condition) static_cast<void>(0)  // a broken file must not end the program
#define STBI_MALLOC(bytes) ::mllama::detail::stb_allocate(bytes)
#define STBI_REALLOC(block, bytes) ::mllama::detail::stb_reallocate(block, bytes)
#define STBI_FREE(block) ::std::free(block)
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_NO_BMP
#define STBI_NO_PSD
#define STBI_NO_TGA
#define STBI_NO_GIF
#define STBI_NO_PIC
#define STBI_NO_PNM

// These are declared extern "C", which a namespace does not keep apart.
#define stbi_convert_iphone_png_to_rgb mllama_stbi_convert_iphone_png_to_rgb
#define stbi_convert_iphone_png_to_rgb_thread mllama_stbi_convert_iphone_png_to_rgb_thread
#define stbi_failure_reason mllama_stbi_failure_reason
#define stbi_image_free mllama_stbi_image_free
#define stbi_info_from_callbacks mllama_stbi_info_from_callbacks
#define stbi_info_from_memory mllama_stbi_info_from_memory
#define stbi_is_16_bit_from_callbacks mllama_stbi_is_16_bit_from_callbacks
#define stbi_is_16_bit_from_memory mllama_stbi_is_16_bit_from_memory
#define stbi_is_hdr_from_callbacks mllama_stbi_is_hdr_from_callbacks
#define stbi_is_hdr_from_memory mllama_stbi_is_hdr_from_memory
#define stbi_load_16_from_callbacks mllama_stbi_load_16_from_callbacks
#define stbi_load_16_from_memory mllama_stbi_load_16_from_memory
#define stbi_load_from_callbacks mllama_stbi_load_from_callbacks
#define stbi_load_from_memory mllama_stbi_load_from_memory
#define stbi_set_flip_vertically_on_load mllama_stbi_set_flip_vertically_on_load
#define stbi_set_flip_vertically_on_load_thread mllama_stbi_set_flip_vertically_on_load_thread
#define stbi_set_unpremultiply_on_load mllama_stbi_set_unpremultiply_on_load
#define stbi_set_unpremultiply_on_load_thread mllama_stbi_set_unpremultiply_on_load_thread
#define stbi_zlib_decode_buffer mllama_stbi_zlib_decode_buffer
#define stbi_zlib_decode_malloc mllama_stbi_zlib_decode_malloc
#define stbi_zlib_decode_malloc_guesssize mllama_stbi_zlib_decode_malloc_guesssize
#define stbi_zlib_decode_malloc_guesssize_headerflag mllama_stbi_zlib_decode_malloc_guesssize_headerflag
#define stbi_zlib_decode_noheader_buffer mllama_stbi_zlib_decode_noheader_buffer
#define stbi_zlib_decode_noheader_malloc mllama_stbi_zlib_decode_noheader_malloc

// Version 2.27 lets a broken JPEG overflow sums of DC differences, and shift a zero by more than its width. Neither reaches
// an address, and both values are cut to 16 bits or are zero anyway; so the arithmetic is declared to wrap, where one can.
#if defined(__clang__)
#pragma clang attribute push(__attribute__((no_sanitize("signed-integer-overflow", "shift"))), apply_to = function)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Weverything"
#elif defined(__GNUC__)
#pragma GCC push_options
#if !defined(__CUDACC__)  // nvcc does not know it
#pragma GCC optimize("wrapv")
#endif
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wuseless-cast"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wcast-align"
#pragma GCC diagnostic ignored "-Wduplicated-branches"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wdouble-promotion"
#endif
namespace mllama::detail::stb {
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include <stb_image.h>
#endif
}  // namespace mllama::detail::stb
#if defined(__clang__)
#pragma clang diagnostic pop
#pragma clang attribute pop
#elif defined(__GNUC__)
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif

#undef stbi_convert_iphone_png_to_rgb
#undef stbi_convert_iphone_png_to_rgb_thread
#undef stbi_failure_reason
#undef stbi_image_free
#undef stbi_info_from_callbacks
#undef stbi_info_from_memory
#undef stbi_is_16_bit_from_callbacks
#undef stbi_is_16_bit_from_memory
#undef stbi_is_hdr_from_callbacks
#undef stbi_is_hdr_from_memory
#undef stbi_load_16_from_callbacks
#undef stbi_load_16_from_memory
#undef stbi_load_from_callbacks
#undef stbi_load_from_memory
#undef stbi_set_flip_vertically_on_load
#undef stbi_set_flip_vertically_on_load_thread
#undef stbi_set_unpremultiply_on_load
#undef stbi_set_unpremultiply_on_load_thread
#undef stbi_zlib_decode_buffer
#undef stbi_zlib_decode_malloc
#undef stbi_zlib_decode_malloc_guesssize
#undef stbi_zlib_decode_malloc_guesssize_headerflag
#undef stbi_zlib_decode_noheader_buffer
#undef stbi_zlib_decode_noheader_malloc
#pragma pop_macro("STBI_INCLUDE_STB_IMAGE_H")
#pragma pop_macro("STB_IMAGE_IMPLEMENTATION")
#pragma pop_macro("STB_IMAGE_STATIC")
#pragma pop_macro("STBIDEF")
#pragma pop_macro("STBI_ASSERT")
#pragma pop_macro("STBI_MALLOC")
#pragma pop_macro("STBI_REALLOC")
#pragma pop_macro("STBI_REALLOC_SIZED")
#pragma pop_macro("STBI_FREE")
#pragma pop_macro("STBI_MAX_DIMENSIONS")
#pragma pop_macro("STBI_NO_STDIO")
#pragma pop_macro("STBI_NO_LINEAR")
#pragma pop_macro("STBI_NO_HDR")
#pragma pop_macro("STBI_NO_BMP")
#pragma pop_macro("STBI_NO_PSD")
#pragma pop_macro("STBI_NO_TGA")
#pragma pop_macro("STBI_NO_GIF")
#pragma pop_macro("STBI_NO_PIC")
#pragma pop_macro("STBI_NO_PNM")
#pragma pop_macro("STBI_NO_JPEG")
#pragma pop_macro("STBI_NO_PNG")
#pragma pop_macro("STBI_NO_ZLIB")
#pragma pop_macro("STBI_NO_FAILURE_STRINGS")
#pragma pop_macro("STBI_FAILURE_USERMSG")
#pragma pop_macro("STBI_ONLY_JPEG")
#pragma pop_macro("STBI_ONLY_PNG")
#pragma pop_macro("STBI_ONLY_BMP")
#pragma pop_macro("STBI_ONLY_PSD")
#pragma pop_macro("STBI_ONLY_TGA")
#pragma pop_macro("STBI_ONLY_GIF")
#pragma pop_macro("STBI_ONLY_HDR")
#pragma pop_macro("STBI_ONLY_PIC")
#pragma pop_macro("STBI_ONLY_PNM")
#pragma pop_macro("stbi__err")
