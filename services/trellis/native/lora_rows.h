// Dot products of a few rows with many, and sums of rows: what adapters are multiplied by, forward and backward.
#pragma once
#include <algorithm>

#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

// Weights that are read next, in one piece: asked for line by line while others are multiplied.
struct Ahead {
  const char *at = nullptr, *end = nullptr;

  template <class T>
  static Ahead of(const T *first, int64_t count) {
    return {(const char *)first, (const char *)(first + count)};
  }
  TRELLIS_INLINE void step() {
    if (at >= end) return;
    __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(at + 64, 0, 2);  // two, for B may be wider than A
    at += 128;
  }
};

template <class T, int TOKENS, int ROWS>
TRELLIS_INLINE void shrink_block(const T *const *x, const T *a, int64_t a_stride, int in, float scale, float *s, int s_stride, Ahead &ahead) {
  f32x16 sums[TOKENS][ROWS] = {};
  constexpr int STEP = Dots<T>::STEP;
  int i = 0;
  for (; i + STEP <= in; i += STEP)
    for (int r = 0; r < ROWS; r++) {
      ahead.step();
      auto weights = load_pack(a + r * a_stride + i);
      for (int t = 0; t < TOKENS; t++) sums[t][r] = Dots<T>::add(sums[t][r], load_pack(x[t] + i), weights);
    }
  if (i < in)
    for (int r = 0; r < ROWS; r++) {
      auto weights = load_pack(a + r * a_stride + i, in - i);
      for (int t = 0; t < TOKENS; t++) sums[t][r] = Dots<T>::add(sums[t][r], load_pack(x[t] + i, in - i), weights);
    }
  for (int t = 0; t < TOKENS; t++)
    for (int r = 0; r < ROWS; r++) s[t * s_stride + r] = scale * sum(sums[t][r]);
}

constexpr int SPAN = 1024;  // columns whose sums stay in the L1 cache while the rows pass by
constexpr int PASS = 8;     // rows of B read side by side; more would be more than the CPU's prefetchers follow

// s for up to four rows of x, and what is known of the weights' columns in hand.
template <class T>
struct Expansion {
  const T *b;  // its first row, at the first column
  int64_t b_stride;
  const float *s;  // (TOKENS, rows)
  int rows;
  float *sums;  // (TOKENS, SPAN)
};

template <class T, int TOKENS, int VECTORS>
TRELLIS_INLINE void expand_block(const Expansion<T> &e, T *const *y, int first, int c, int n, Ahead &ahead) {
  int last = std::min(first + PASS, e.rows);
  f32x16 sums[TOKENS][VECTORS] = {};
  if (first)
    for (int t = 0; t < TOKENS; t++)
      for (int v = 0; v < VECTORS; v++) sums[t][v] = load(e.sums + t * SPAN + c + v * LANES);
  for (int r = first; r < last; r++) {
    const T *b = e.b + r * e.b_stride + c;
    f32x16 weights[VECTORS];
    for (int v = 0; v < VECTORS; v++) {
      if (v % 2 == 0 || sizeof(T) == 4) ahead.step();
      weights[v] = n == LANES ? load(b + v * LANES) : load(b, n);
    }
    for (int t = 0; t < TOKENS; t++)
      for (int v = 0; v < VECTORS; v++) sums[t][v] += e.s[t * e.rows + r] * weights[v];
  }
  for (int t = 0; t < TOKENS; t++)
    for (int v = 0; v < VECTORS; v++) {
      T *at = y[t] + c + v * LANES;
      if (last < e.rows)
        store(e.sums + t * SPAN + c + v * LANES, sums[t][v]);
      else if (n == LANES)
        store(at, load(at) + sums[t][v]);
      else
        store(at, load(at, n) + sums[t][v], n);
    }
}

template <class T, int TOKENS>
static void expand_span(const Expansion<T> &e, T *const *y, int columns, Ahead &ahead) {
  constexpr int VECTORS = WIDE ? 4 : 1;
  for (int first = 0; first < e.rows; first += PASS) {
    int c = 0;
    for (; c + VECTORS * LANES <= columns; c += VECTORS * LANES) expand_block<T, TOKENS, VECTORS>(e, y, first, c, LANES, ahead);
    for (; c + LANES <= columns; c += LANES) expand_block<T, TOKENS, 1>(e, y, first, c, LANES, ahead);
    if (c < columns) expand_block<T, TOKENS, 1>(e, y, first, c, columns - c, ahead);
  }
}

}  // namespace
}  // namespace trellis
