// x Wᵀ + bias in bf16 for a CPU with AVX-512's bf16 dot products, with the weight laid out for it.
//
// A decoding step has a few dozen rows: too many for the memory to be all that counts, too few for a library that is
// made for large matrices. Here the next panel of the weight is fetched while the present one is multiplied.
//
// The weight lies in strips of 16 out-features: row k of a strip holds (2k, n), (2k + 1, n) for its 16 n.
#include <algorithm>

#include "vectors.h"

#if defined(__AVX512BF16__) && defined(__AVX512F__)

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int ROWS = 8;     // of x, whose sums stay in registers
constexpr int STRIPS = 3;   // of the weight, beside each other: 8 x 3 sums, 3 packs of the weight, a pair of x
constexpr int AHEAD = 3;    // passes over a panel in which the next one is fetched
constexpr int LINE = 64;    // bytes

struct Product {
  const bf16 *x;
  int64_t x_stride;
  const bf16 *weight;  // strips
  const float *bias;   // or none
  bf16 *y;
  int64_t y_stride;
  int64_t rows, in_features, out_features;

  int64_t pairs() const { return in_features / 2; }
  int64_t strips() const { return (out_features + LANES - 1) / LANES; }
  const bf16 *strip(int64_t number) const { return weight + number * in_features * LANES; }
};

// R rows of x times S strips; meanwhile `fetches` lines an element pair of what comes next are brought nearer.
template <int R, int S, bool FETCH>
TRELLIS_INLINE void multiply(const Product &call, int64_t row, int64_t strip, const char *next, int fetches) {
  f32x16 sums[R][S] = {};
  const bf16 *x = call.x + row * call.x_stride, *w = call.strip(strip);
  int64_t pairs = call.pairs(), apart = call.in_features * LANES;
  for (int64_t k = 0; k < pairs; k++) {
    if (FETCH)
      for (int f = 0; f < fetches; f++) _mm_prefetch(next + (k * fetches + f) * LINE, _MM_HINT_T1);
    u32x16 packs[S];
    for (int s = 0; s < S; s++) packs[s] = load_bits<u32x16>(w + s * apart + k * 2 * LANES);
    for (int r = 0; r < R; r++) {
      u32x16 pair = Dots<bf16>::splat_at(x + r * call.x_stride + 2 * k);
      for (int s = 0; s < S; s++) sums[r][s] = Dots<bf16>::add(sums[r][s], pair, packs[s]);
    }
  }
  for (int s = 0; s < S; s++) {
    int64_t column = (strip + s) * LANES;
    int width = (int)std::min<int64_t>(LANES, call.out_features - column);
    f32x16 bias = {};
    if (call.bias) bias = width == LANES ? load(call.bias + column) : load(call.bias + column, width);
    for (int r = 0; r < R; r++) {
      bf16 *to = call.y + (row + r) * call.y_stride + column;
      if (width == LANES)
        store(to, sums[r][s] + bias);
      else
        store(to, sums[r][s] + bias, width);
    }
  }
}

template <int S, bool FETCH>
void some_rows(const Product &call, int rows, int64_t row, int64_t strip, const char *next, int fetches) {
  switch (rows) {
    case 1: return multiply<1, S, FETCH>(call, row, strip, next, fetches);
    case 2: return multiply<2, S, FETCH>(call, row, strip, next, fetches);
    case 3: return multiply<3, S, FETCH>(call, row, strip, next, fetches);
    case 4: return multiply<4, S, FETCH>(call, row, strip, next, fetches);
    case 5: return multiply<5, S, FETCH>(call, row, strip, next, fetches);
    case 6: return multiply<6, S, FETCH>(call, row, strip, next, fetches);
    case 7: return multiply<7, S, FETCH>(call, row, strip, next, fetches);
    default: return multiply<ROWS, S, FETCH>(call, row, strip, next, fetches);
  }
}

// All rows times the strips of one panel; behind the thread's last strip nothing is fetched.
template <int S>
void panel(const Product &call, int64_t strip, int64_t last) {
  int64_t blocks = (call.rows + ROWS - 1) / ROWS, bytes = call.in_features * LANES * sizeof(bf16);
  int64_t passes = std::min<int64_t>(blocks, AHEAD), steps = passes * call.pairs();
  int64_t lines = std::min<int64_t>(STRIPS, last - (strip + S)) * bytes / LINE;
  int fetches = (int)((lines + steps - 1) / steps);  // at each step
  const char *next = (const char *)call.strip(strip + S);
  for (int64_t block = 0; block < blocks; block++) {
    int64_t row = block * ROWS;
    int rows = (int)std::min<int64_t>(ROWS, call.rows - row);
    // The first pass reads the panel itself; the passes behind it have the time to fetch, if there are enough.
    int64_t fetching = blocks - passes;
    const char *from = next + (block - std::min<int64_t>(fetching, 1)) * call.pairs() * fetches * LINE;
    bool fetch = lines > 0 && block >= std::min<int64_t>(fetching, 1) && block < passes + std::min<int64_t>(fetching, 1);
    if (!fetch)
      some_rows<S, false>(call, rows, row, strip, nullptr, 0);
    else if (fetches == 1)
      some_rows<S, true>(call, rows, row, strip, from, 1);
    else
      some_rows<S, true>(call, rows, row, strip, from, fetches);
  }
}

void panels(const Product &call, int64_t begin, int64_t end) {
  int64_t strip = begin;
  for (; strip + STRIPS <= end; strip += STRIPS) panel<STRIPS>(call, strip, end);
  if (end - strip == 2) panel<2>(call, strip, end);
  if (end - strip == 1) panel<1>(call, strip, end);
}

}  // namespace
}  // namespace trellis

using namespace trellis;

extern "C" int trellis_has_linear() { return 1; }

// The weight (out-features, in-features), contiguous, into strips; those behind the last feature are zeros.
extern "C" void trellis_pack_linear(const bf16 *weight, int64_t out_features, int64_t in_features, bf16 *to) {
  int64_t strips = (out_features + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
  for (int64_t strip = 0; strip < strips; strip++) {
    bf16 *into = to + strip * in_features * LANES;
    for (int64_t n = 0; n < LANES; n++) {
      int64_t feature = strip * LANES + n;
      for (int64_t k = 0; k < in_features; k++)
        into[(k / 2 * LANES + n) * 2 + k % 2] = feature < out_features ? weight[feature * in_features + k] : bf16{};
    }
  }
}

extern "C" void trellis_linear(const bf16 *x, int64_t x_stride, const bf16 *weight, const float *bias, bf16 *y,
                               int64_t rows, int64_t in_features, int64_t out_features, int threads) {
  Product call{x, x_stride, weight, bias, y, out_features, rows, in_features, out_features};
  if (rows == 0) return;
  int64_t strips = call.strips(), panels_of_all = (strips + STRIPS - 1) / STRIPS;
  if (threads <= 1 || panels_of_all < 2) return panels(call, 0, strips);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; part++) {
    int64_t begin = panels_of_all * part / threads * STRIPS, end = panels_of_all * (part + 1) / threads * STRIPS;
    panels(call, begin, std::min(end, strips));
  }
}

#else

extern "C" int trellis_has_linear() { return 0; }
extern "C" void trellis_pack_linear(const void *, long, long, void *) {}
extern "C" void trellis_linear(const void *, long, const void *, const float *, void *, long, long, long, int) {}

#endif
