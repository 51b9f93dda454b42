// Sixteen numbers at a time, on any CPU: GCC's vector types, and AVX-512 instructions where the compiler may use them.
//
// bf16 weights are multiplied in pairs: the dot product of 32 bf16 numbers with 32 others is added to 16 fp32 sums. Every
// kernel adds the terms of one result in one fixed order, whatever else is computed beside it, so that a row's bits depend
// on the row alone.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace trellis {

#define TRELLIS_INLINE inline __attribute__((always_inline))

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));

struct bf16 {
  uint16_t bits;
};

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr bool WIDE = true;  // 32 registers of 16 numbers
#else
constexpr bool WIDE = false;
#endif

template <class V>
TRELLIS_INLINE V load_bits(const void *from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

TRELLIS_INLINE f32x16 splat(float x) { return f32x16{} + x; }

// ---- fp32 numbers <-> their storage ----

TRELLIS_INLINE f32x16 load(const float *from) { return load_bits<f32x16>(from); }

TRELLIS_INLINE f32x16 load(const bf16 *from) {
  u32x16 wide = __builtin_convertvector(load_bits<u16x16>(from), u32x16) << 16;
  return (f32x16)wide;
}

TRELLIS_INLINE void store(float *to, f32x16 value) { std::memcpy(to, &value, sizeof(value)); }

// To the nearest bf16, ties to even; a NaN stays one.
TRELLIS_INLINE u16x16 rounded(f32x16 value) {
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)value);
  return load_bits<u16x16>(&half);
#else
  u32x16 bits = (u32x16)value;
  u32x16 near = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  u32x16 quiet = (bits >> 16) | 0x40u;
  u32x16 is_nan = (u32x16)(value != value);
  return __builtin_convertvector((near & ~is_nan) | (quiet & is_nan), u16x16);
#endif
}

TRELLIS_INLINE void store(bf16 *to, f32x16 value) {
  u16x16 half = rounded(value);
  std::memcpy(to, &half, sizeof(half));
}

// The first n of 16, zeros (never a neighbour's numbers) behind them.
TRELLIS_INLINE f32x16 load(const float *from, int n) {
  float lanes[LANES] = {};
  std::memcpy(lanes, from, n * sizeof(float));
  return load(lanes);
}

TRELLIS_INLINE f32x16 load(const bf16 *from, int n) {
  bf16 lanes[LANES] = {};
  std::memcpy(lanes, from, n * sizeof(bf16));
  return load(lanes);
}

TRELLIS_INLINE void store(float *to, f32x16 value, int n) { std::memcpy(to, &value, n * sizeof(float)); }

TRELLIS_INLINE void store(bf16 *to, f32x16 value, int n) {
  u16x16 half = rounded(value);
  std::memcpy(to, &half, n * sizeof(bf16));
}

TRELLIS_INLINE float to_float(float x) { return x; }

TRELLIS_INLINE float to_float(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// ---- dot products: a pack is 16 fp32 numbers or 16 pairs of bf16 ones ----

template <class T>
struct Dots;

template <>
struct Dots<float> {
  static constexpr int STEP = 16, PAIR = 1;
  typedef f32x16 Pack;
  static TRELLIS_INLINE Pack of(float x) { return splat(x); }
  static TRELLIS_INLINE Pack splat_at(const float *x) { return splat(*x); }
  static TRELLIS_INLINE f32x16 add(f32x16 sum, Pack a, Pack b) { return sum + a * b; }
};

template <>
struct Dots<bf16> {
  static constexpr int STEP = 32, PAIR = 2;
  typedef u32x16 Pack;
  static TRELLIS_INLINE Pack splat_at(const bf16 *pair) {
    uint32_t bits;
    std::memcpy(&bits, pair, sizeof(bits));
    return u32x16{} + bits;
  }
  static TRELLIS_INLINE f32x16 add(f32x16 sum, Pack a, Pack b) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    sum += (f32x16)(a << 16) * (f32x16)(b << 16);
    return sum + (f32x16)(a & 0xffff0000u) * (f32x16)(b & 0xffff0000u);
#endif
  }
};

template <class T>
TRELLIS_INLINE typename Dots<T>::Pack load_pack(const T *from) {
  return load_bits<typename Dots<T>::Pack>(from);
}

template <class T>
TRELLIS_INLINE typename Dots<T>::Pack load_pack(const T *from, int n) {
  T lanes[Dots<T>::STEP] = {};
  std::memcpy(lanes, from, n * sizeof(T));
  return load_pack(lanes);
}

TRELLIS_INLINE float sum(f32x16 value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#else
  float lanes[LANES];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; lane++) lanes[lane] += lanes[lane + width];
  return lanes[0];
#endif
}

// Of numbers; a NaN among them may be passed over.
TRELLIS_INLINE float largest(f32x16 value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)value);
#else
  float lanes[LANES];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int width = LANES / 2; width; width /= 2)
    for (int lane = 0; lane < width; lane++) lanes[lane] = lanes[lane] < lanes[lane + width] ? lanes[lane + width] : lanes[lane];
  return lanes[0];
#endif
}

TRELLIS_INLINE f32x16 select(i32x16 where, f32x16 yes, f32x16 no) {
  return (f32x16)(((i32x16)yes & where) | ((i32x16)no & ~where));
}

// e^x within 2 ulp; 0 below -87, that of 88 above it; NaN stays NaN. (Cody and Waite's reduction, Cephes' polynomial.)
TRELLIS_INLINE f32x16 exponential(f32x16 x) {
  f32x16 low = splat(-87.3f), high = splat(88.0f);
  i32x16 vanishes = x < low;
  f32x16 clamped = select(vanishes, low, select(x > high, high, x));
  const float shift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  f32x16 shifted = clamped * 1.44269504088896341f + shift;
  f32x16 n = shifted - shift;
  f32x16 r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  i32x16 power = ((i32x16)shifted - 0x4b400000 + 127) << 23;
  return (f32x16)((i32x16)(p * (f32x16)power) & ~vanishes);
}

}  // namespace trellis
