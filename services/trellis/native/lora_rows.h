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
TRELLIS_INLINE void shrink_block(const T *const *x, const T *a, int64_t a_stride, int in, float scale, T *s, int s_stride, Ahead &ahead) {
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
  if constexpr (WIDE && TOKENS * ROWS >= LANES / 2 && TOKENS * ROWS <= LANES) {
    f32x16 all[LANES] = {};
    std::memcpy(all, sums, sizeof(sums));
    T scaled[LANES];
    store(scaled, scale * lane_sums(all));
    for (int t = 0; t < TOKENS; t++) std::memcpy(s + t * s_stride, scaled + t * ROWS, ROWS * sizeof(T));
  } else {
    for (int t = 0; t < TOKENS; t++)
      for (int r = 0; r < ROWS; r++) store(s + t * s_stride + r, splat(scale * sum(sums[t][r])), 1);
  }
}

constexpr int SPAN = 1024;  // columns whose sums stay in the L1 cache while the rows pass by
constexpr int PASS = 8;     // rows of B read side by side; more would be more than the CPU's prefetchers follow

// Numbers of s of a row: behind an odd rank stands a zero where rows of B are multiplied in pairs.
template <class T>
constexpr int room_of(int rank) {
  return (rank + Dots<T>::PAIR - 1) / Dots<T>::PAIR * Dots<T>::PAIR;
}

// s for up to four rows of x, and what is known of the weights' columns in hand.
template <class T>
struct Expansion {
  const T *b;  // its first row, at the first column
  int64_t b_stride;
  const T *s;  // (TOKENS, room_of(rows))
  int rows;
  float *sums;  // (TOKENS, SPAN)
};

// Columns of one row of B, or of two as pairs.
template <class T, int VECTORS>
TRELLIS_INLINE void load_rows(const Expansion<T> &e, int r, int c, int n, typename Dots<T>::Pack *packs) {
  const T *b = e.b + r * e.b_stride + c;
  if constexpr (Dots<T>::PAIR == 2) {
    const T *second = r + 1 < e.rows ? b + e.b_stride : nullptr;
    if constexpr (VECTORS % 2 == 0)
      load_pairs<VECTORS>(b, second, packs);
    else
      packs[0] = load_pairs(b, second, n);
  } else {
    for (int v = 0; v < VECTORS; v++) packs[v] = n == LANES ? load(b + v * LANES) : load(b, n);
  }
}

template <class T, int TOKENS, int VECTORS>
TRELLIS_INLINE void expand_block(const Expansion<T> &e, T *const *y, int first, int c, int n, Ahead &ahead) {
  int last = std::min(first + PASS, e.rows);
  f32x16 sums[TOKENS][VECTORS] = {};
  if (first)
    for (int t = 0; t < TOKENS; t++)
      for (int v = 0; v < VECTORS; v++) sums[t][v] = load(e.sums + t * SPAN + c + v * LANES);
  constexpr int PAIR = Dots<T>::PAIR;
  for (int r = first; r < last; r += PAIR) {
    typename Dots<T>::Pack weights[VECTORS];
    for (int v = 0; v < VECTORS; v++) ahead.step();
    load_rows<T, VECTORS>(e, r, c, n, weights);
    for (int t = 0; t < TOKENS; t++) {
      auto s = Dots<T>::splat_at(e.s + t * room_of<T>(e.rows) + r);
      for (int v = 0; v < VECTORS; v++) sums[t][v] = Dots<T>::add(sums[t][v], s, weights[v]);
    }
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
