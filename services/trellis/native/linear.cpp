// x Wᵀ + bias for a CPU with AVX-512, with the weight laid out for it: in fp32, and in bf16 where there are dot products
// of it.
//
// A decoding step has a few dozen rows: too many for the memory to be all that counts, too few for a library that is
// made for large matrices. Here the next panel of the weight is fetched while the present one is multiplied, and what is
// read after the product while its last panels are.
//
// The weight lies in strips of 16 out-features: row k of a strip holds (k, n) for its 16 n, in bf16 (2k, n), (2k + 1, n).
#include <algorithm>

#include "kernels.h"
#include "linear.h"
#include "vectors.h"

#if defined(__AVX512F__)

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int ROWS = 8;     // of x, whose sums stay in registers
constexpr int STRIPS = 3;   // of the weight, beside each other: 8 x 3 sums, 3 packs of the weight, a pair of x
constexpr int AHEAD = 3;    // passes over a panel in which the next one is fetched
constexpr int LINE = 64;    // bytes
constexpr int64_t LEAST_ROWS = 64, PIECES = 8;  // rows of a piece, and pieces a thread, where there are many rows
constexpr int64_t CACHED = 512 << 10;  // bytes of x, or of what is read next, that stay in a core's second cache beside two panels

template <class T>
struct Product {
  const T *x;
  int64_t x_stride;
  const T *weight;    // strips
  const float *bias;  // or none
  T *y;
  int64_t y_stride;
  int64_t rows, in_features, out_features;

  int64_t packs() const { return in_features / Dots<T>::PAIR; }
  int64_t strips() const { return (out_features + LANES - 1) / LANES; }
  const T *strip(int64_t number) const { return weight + number * in_features * LANES; }
};

// What a thread of several fetches beside its product: every one of them begins with another piece.
class Later {
 public:
  Later() = default;
  Later(const Piece *pieces, int64_t count, int64_t thread, int64_t threads) : piece_(pieces + thread), last_(pieces + count), apart_(threads) {
    for (const Piece *piece = piece_; piece < last_; piece += apart_) left_ += (piece->end - piece->at + LINE - 1) / LINE;
    left_ = std::min(left_, CACHED / LINE);
    if (left_) at_ = piece_->at;
  }
  // How many lines at each of the steps that are left: none as long as half of the steps would do, for what comes early
  // would be pushed out again.
  int share(int64_t steps) const { return left_ > 0 && steps <= 2 * left_ ? (int)((left_ + steps - 1) / steps) : 0; }
  void fetched(int64_t lines) { left_ -= lines; }

  TRELLIS_INLINE void fetch() {
    if (piece_ >= last_) return;
    _mm_prefetch(at_, _MM_HINT_T1);
    at_ += LINE;
    if (at_ < piece_->end) return;
    piece_ += apart_;
    if (piece_ < last_) at_ = piece_->at;
  }

 private:
  const Piece *piece_ = nullptr, *last_ = nullptr;
  int64_t apart_ = 1, left_ = 0;
  const char *at_ = nullptr;
};

// Lines that are brought nearer at each element pair: of the next panel, and of what comes after the product.
struct Fetch {
  const char *panel = nullptr;
  int of_panel = 0, of_later = 0;
  Later *later = nullptr;
};

enum Fetching { NOTHING, PANEL, ALL };

// R rows of x times S strips; meanwhile what comes next is brought nearer.
template <class T, int R, int S, Fetching FETCHING>
TRELLIS_INLINE void multiply(const Product<T> &call, int64_t row, int64_t strip, const Fetch &next) {
  f32x16 sums[R][S] = {};
  const T *x = call.x + row * call.x_stride, *w = call.strip(strip);
  int64_t packs_of_all = call.packs(), apart = call.in_features * LANES;
  for (int64_t k = 0; k < packs_of_all; k++) {
    if (FETCHING != NOTHING)
      for (int f = 0; f < next.of_panel; f++) _mm_prefetch(next.panel + (k * next.of_panel + f) * LINE, _MM_HINT_T1);
    if (FETCHING == ALL)
      for (int f = 0; f < next.of_later; f++) next.later->fetch();
    typename Dots<T>::Pack packs[S];
    for (int s = 0; s < S; s++) packs[s] = load_pack(w + s * apart + k * Dots<T>::STEP);
    for (int r = 0; r < R; r++) {
      typename Dots<T>::Pack each = Dots<T>::splat_at(x + r * call.x_stride + Dots<T>::PAIR * k);
      for (int s = 0; s < S; s++) sums[r][s] = Dots<T>::add(sums[r][s], each, packs[s]);
    }
  }
  for (int s = 0; s < S; s++) {
    int64_t column = (strip + s) * LANES;
    int width = (int)std::min<int64_t>(LANES, call.out_features - column);
    f32x16 bias = {};
    if (call.bias) bias = width == LANES ? load(call.bias + column) : load(call.bias + column, width);
    for (int r = 0; r < R; r++) {
      T *to = call.y + (row + r) * call.y_stride + column;
      if (width == LANES)
        store(to, sums[r][s] + bias);
      else
        store(to, sums[r][s] + bias, width);
    }
  }
}

template <class T, int S, Fetching FETCHING>
void some_rows(const Product<T> &call, int rows, int64_t row, int64_t strip, const Fetch &next) {
  switch (rows) {
    case 1: return multiply<T, 1, S, FETCHING>(call, row, strip, next);
    case 2: return multiply<T, 2, S, FETCHING>(call, row, strip, next);
    case 3: return multiply<T, 3, S, FETCHING>(call, row, strip, next);
    case 4: return multiply<T, 4, S, FETCHING>(call, row, strip, next);
    case 5: return multiply<T, 5, S, FETCHING>(call, row, strip, next);
    case 6: return multiply<T, 6, S, FETCHING>(call, row, strip, next);
    case 7: return multiply<T, 7, S, FETCHING>(call, row, strip, next);
    default: return multiply<T, ROWS, S, FETCHING>(call, row, strip, next);
  }
}

// All rows times the strips of one panel; behind the thread's last strip there is no panel to fetch.
template <class T, int S>
void panel(const Product<T> &call, int64_t strip, int64_t last, Later &later) {
  int64_t blocks = (call.rows + ROWS - 1) / ROWS, bytes = call.in_features * LANES * sizeof(T);
  int64_t passes = std::min<int64_t>(blocks, AHEAD), steps = passes * call.packs();
  int64_t lines = std::min<int64_t>(STRIPS, last - (strip + S)) * bytes / LINE;
  int64_t passes_left = (last - strip + STRIPS - 1) / STRIPS * blocks;
  int fetches = (int)((lines + steps - 1) / steps);  // at each step
  const char *panel = (const char *)call.strip(strip + S);
  // The first pass reads the panel itself; the passes behind it have the time to fetch, if there are enough.
  int64_t first = std::min<int64_t>(blocks - passes, 1);
  for (int64_t block = 0; block < blocks; block++) {
    int64_t row = block * ROWS;
    int rows = (int)std::min<int64_t>(ROWS, call.rows - row);
    Fetch next{panel, 0, later.share((passes_left - block) * call.packs()), &later};
    if (lines > 0 && block >= first && block < passes + first) {
      next.panel = panel + (block - first) * call.packs() * fetches * LINE;
      next.of_panel = fetches;
    }
    later.fetched(next.of_later * call.packs());
    if (next.of_later)
      some_rows<T, S, ALL>(call, rows, row, strip, next);
    else if (next.of_panel)
      some_rows<T, S, PANEL>(call, rows, row, strip, next);
    else
      some_rows<T, S, NOTHING>(call, rows, row, strip, next);
  }
}

template <class T>
void panels(const Product<T> &call, int64_t begin, int64_t end, Later later) {
  int64_t strip = begin;
  for (; strip + STRIPS <= end; strip += STRIPS) panel<T, STRIPS>(call, strip, end, later);
  if (end - strip == 2) panel<T, 2>(call, strip, end, later);
  if (end - strip == 1) panel<T, 1>(call, strip, end, later);
}

// Many rows in blocks that stay in the cache while all panels pass over them.
template <class T>
void blocks_of_rows(const Product<T> &call, int64_t begin, int64_t end, const Later &later = {}) {
  int64_t most = std::max<int64_t>(CACHED / (call.in_features * (int64_t)sizeof(T)) / ROWS, 8) * ROWS;
  for (int64_t row = 0; row < call.rows; row += most) {
    Product<T> block = call;
    block.x += row * call.x_stride;
    block.y += row * call.y_stride;
    block.rows = std::min(most, call.rows - row);
    panels(block, begin, end, row + most < call.rows ? Later() : later);
  }
}

template <class T>
void pack(const T *weight, int64_t out_stride, int64_t in_stride, int64_t out_features, int64_t in_features, T *to) {
  constexpr int PAIR = Dots<T>::PAIR;
  int64_t strips = (out_features + LANES - 1) / LANES;
#pragma omp parallel for schedule(static)
  for (int64_t strip = 0; strip < strips; strip++) {
    T *into = to + strip * in_features * LANES;
    for (int64_t n = 0; n < LANES; n++) {
      int64_t feature = strip * LANES + n;
      for (int64_t k = 0; k < in_features; k++)
        into[(k / PAIR * LANES + n) * PAIR + k % PAIR] =
            feature < out_features ? weight[feature * out_stride + k * in_stride] : T{};
    }
  }
}

// For many rows: a thread that was held up takes fewer of the pieces, and nobody waits for its half.
template <class T>
void pieces_of_rows(const Product<T> &call, int threads) {
  int64_t rows = std::max<int64_t>(LEAST_ROWS, (call.rows / (PIECES * threads) + ROWS - 1) / ROWS * ROWS);
  int64_t pieces = (call.rows + rows - 1) / rows;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (int64_t number = 0; number < pieces; number++) {
    Product<T> piece = call;
    piece.x += number * rows * call.x_stride;
    piece.y += number * rows * call.y_stride;
    piece.rows = std::min(rows, call.rows - number * rows);
    blocks_of_rows(piece, 0, call.strips());
  }
}

template <class T>
void product(const Product<T> &call, int threads, const Piece *next = nullptr, int64_t count = 0) {
  if (call.rows == 0) return;
  int64_t strips = call.strips();
  if (threads > 1 && call.rows >= 2 * threads * LEAST_ROWS) return pieces_of_rows(call, threads);
  if (threads <= 1 || strips <= STRIPS) return blocks_of_rows(call, 0, strips, Later(next, count, 0, 1));
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int part = 0; part < threads; part++)
    blocks_of_rows(call, strips * part / threads, strips * (part + 1) / threads, Later(next, count, part, threads));
}

}  // namespace

template <class T>
void multiply_rows(const LinearRows<T> &call, int64_t from, int64_t to) {
  Product<T> piece{call.x + from * call.x_stride, call.x_stride, call.weight, call.bias, call.y + from * call.y_stride, call.y_stride,
                   to - from, call.in_features, call.out_features};
  if (to > from) blocks_of_rows(piece, 0, piece.strips());
}

template void multiply_rows<float>(const LinearRows<float> &, int64_t, int64_t);
template void multiply_rows<bf16>(const LinearRows<bf16> &, int64_t, int64_t);

template <class T>
void multiply_all(const LinearRows<T> &call, int64_t rows, const Piece *next, int64_t count, int threads) {
  product(Product<T>{call.x, call.x_stride, call.weight, call.bias, call.y, call.y_stride, rows, call.in_features, call.out_features}, threads, next, count);
}

template void multiply_all<float>(const LinearRows<float> &, int64_t, const Piece *, int64_t, int);
template void multiply_all<bf16>(const LinearRows<bf16> &, int64_t, const Piece *, int64_t, int);

}  // namespace trellis

using namespace trellis;

// Bit 0: in fp32; bit 1: in bf16.
extern "C" int trellis_has_linear() {
#if defined(__AVX512BF16__)
  return 3;
#else
  return 1;
#endif
}

// The weight (out-features, in-features) by its strides into strips; what lies behind the last feature is zero.
extern "C" void trellis_pack_linear(const void *weight, int64_t out_stride, int64_t in_stride, int64_t out_features,
                                    int64_t in_features, void *to, int is_bf16) {
  if (is_bf16)
    pack((const bf16 *)weight, out_stride, in_stride, out_features, in_features, (bf16 *)to);
  else
    pack((const float *)weight, out_stride, in_stride, out_features, in_features, (float *)to);
}

extern "C" void trellis_linear(const void *x, int64_t x_stride, const void *weight, const float *bias, void *y, int64_t rows,
                               int64_t in_features, int64_t out_features, int is_bf16, int threads) {
  if (is_bf16)
    product(Product<bf16>{(const bf16 *)x, x_stride, (const bf16 *)weight, bias, (bf16 *)y, out_features, rows, in_features,
                          out_features},
            threads);
  else
    product(Product<float>{(const float *)x, x_stride, (const float *)weight, bias, (float *)y, out_features, rows,
                           in_features, out_features},
            threads);
}

#else

namespace trellis {
template <class T>
void multiply_rows(const LinearRows<T> &, int64_t, int64_t) {}
template void multiply_rows<float>(const LinearRows<float> &, int64_t, int64_t);
template void multiply_rows<bf16>(const LinearRows<bf16> &, int64_t, int64_t);
template <class T>
void multiply_all(const LinearRows<T> &, int64_t, const Piece *, int64_t, int) {}
template void multiply_all<float>(const LinearRows<float> &, int64_t, const Piece *, int64_t, int);
template void multiply_all<bf16>(const LinearRows<bf16> &, int64_t, const Piece *, int64_t, int);
}  // namespace trellis

extern "C" int trellis_has_linear() { return 0; }
extern "C" void trellis_pack_linear(const void *, int64_t, int64_t, int64_t, int64_t, void *, int) {}
extern "C" void trellis_linear(const void *, int64_t, const void *, const float *, void *, int64_t, int64_t, int64_t, int, int) {}

#endif
