// y += scale * (x A^T) B for the rows of each segment: the adapters of a mixed batch, each on its own rows.
//
// A segment reads its own rows of x and of the bank and nothing else. Work is cut into items by segments, then by rows,
// then by columns; each number of y is computed by one item, in an order of additions that the cut does not change.
//
// fp32: sums in fp32. bf16: products of bf16 pairs summed in fp32; s = scale * x A^T is rounded to bf16 between the two
// products. Segments of many rows are multiplied by AMX tiles where the CPU has them.
#include <algorithm>
#include <vector>

#include "kernels.h"
#include "linear.h"
#include "lora_rows.h"
#include "row_pieces.h"
#include "tiles.h"
#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

struct Item {
  int32_t segment, token, tokens, column, columns;
};

template <class T>
struct Call {
  const Group &group;
  const T *x;
  int64_t x_stride;
  T *y;
  int64_t y_stride;
};

static double cost_of(const Segment &segment, const Group &group) {
  double numbers = 0;
  for (int part = 0; part < group.parts; part++) {
    int64_t at = segment.slot * group.stride + part;
    if (group.scale[at] != 0.0f) numbers += (double)group.ranks[at] * (double)(group.in + group.width(part));
  }
  return (1.0 + segment.tokens / 8.0) * numbers;
}

static void cut(const Segment &segment, int index, const Group &group, int pieces, std::vector<Item> &items) {
  int end = segment.token + segment.tokens, out = (int)group.out;
  bool by_tokens = segment.tokens >= 32;
  int tokens = by_tokens ? ((segment.tokens + pieces - 1) / pieces + 31) / 32 * 32 : segment.tokens;
  int columns = by_tokens ? out : std::max(256, ((out + pieces - 1) / pieces + 63) / 64 * 64);
  for (int token = segment.token; token < end; token += tokens)
    for (int column = 0; column < out; column += columns)
      items.push_back({index, token, std::min(tokens, end - token), column, std::min(columns, out - column)});
}

static void plan(const Segment *segments, int64_t count, const Group &group, int threads, std::vector<Item> &items) {
  double total = 0;
  for (int64_t i = 0; i < count; i++)
    if (counts(segments[i], group)) total += cost_of(segments[i], group);
  double share = total / (2.0 * threads);
  for (int64_t i = 0; i < count; i++) {
    const Segment &segment = segments[i];
    if (!counts(segment, group)) continue;
    int pieces = threads > 1 ? std::max(1, (int)std::ceil(cost_of(segment, group) / share)) : 1;
    cut(segment, (int)i, group, pieces, items);
  }
}

// Whether all items are whole segments that cost about the same.
static bool is_even(const Segment *segments, const std::vector<Item> &items, const Group &group) {
  double least = INFINITY, most = 0;
  for (size_t i = 0; i < items.size(); i++) {
    if (i && items[i].segment == items[i - 1].segment) return false;
    double cost = cost_of(segments[items[i].segment], group);
    least = std::min(least, cost);
    most = std::max(most, cost);
  }
  return most <= 2 * least;
}

// ---- few rows: the weights are streamed once, past up to four rows of x ----

template <class T, int TOKENS>
static void shrink(const Call<T> &call, int token, const Pair<T> &pair, T *s, Ahead ahead) {
  const T *x[TOKENS];
  for (int t = 0; t < TOKENS; t++) x[t] = call.x + (token + t) * call.x_stride;
  int r = 0, room = room_of<T>(pair.rank);
  constexpr int ROWS = WIDE ? (TOKENS <= 2 ? 8 : 4) : (TOKENS <= 2 ? 2 : 1);
  for (; r + ROWS <= pair.rank; r += ROWS)
    shrink_block<T, TOKENS, ROWS>(x, pair.a + (int64_t)r * pair.in, pair.in, pair.in, pair.scale, s + r, room, ahead);
  for (; r < pair.rank; r++)
    shrink_block<T, TOKENS, 1>(x, pair.a + (int64_t)r * pair.in, pair.in, pair.in, pair.scale, s + r, room, ahead);
  if (room > pair.rank)
    for (int t = 0; t < TOKENS; t++) s[t * room + pair.rank] = T{};
}

// Some columns of a part, from one to another; `first` is the part's own first column in y.
struct Columns {
  int first, from, to;
};

template <class T, int TOKENS>
static void expand(const Call<T> &call, int token, const Pair<T> &pair, const Columns &columns, const T *s, Ahead ahead) {
  alignas(64) float sums[TOKENS * SPAN];
  for (int c = columns.from; c < columns.to; c += SPAN) {
    T *y[TOKENS];
    for (int t = 0; t < TOKENS; t++) y[t] = call.y + (token + t) * call.y_stride + c;
    expand_span<T, TOKENS>({pair.b + (c - columns.first), pair.width, s, pair.rank, sums}, y, std::min(SPAN, columns.to - c), ahead);
  }
}

template <class T, int TOKENS>
static void few(const Call<T> &call, int token, const Pair<T> &pair, const Columns &columns, T *s, Ahead b, Ahead then) {
  shrink<T, TOKENS>(call, token, pair, s, b);
  expand<T, TOKENS>(call, token, pair, columns, s, then);
}

// The first rows ask for B, the last ones for what is read after it: in between all is in the cache.
template <class T>
static void stream(const Call<T> &call, const Item &item, const Pair<T> &pair, const Columns &columns, const Pair<T> &then) {
  thread_local std::vector<T> s;
  s.resize((size_t)room_of<T>(pair.rank) * 4);
  Ahead b = Ahead::of(pair.b, (int64_t)pair.rank * pair.width), next = Ahead::of(then.a, (int64_t)then.rank * then.in), none;
  int token = item.token, end = item.token + item.tokens;
  for (; token + 4 <= end; token += 4) few<T, 4>(call, token, pair, columns, s.data(), token == item.token ? b : none, token + 4 == end ? next : none);
  if (token != item.token) b = none;
  switch (end - token) {
    case 3: return few<T, 3>(call, token, pair, columns, s.data(), b, next);
    case 2: return few<T, 2>(call, token, pair, columns, s.data(), b, next);
    case 1: return few<T, 1>(call, token, pair, columns, s.data(), b, next);
  }
}

// ---- many rows in bf16: AMX tiles of 16 x 32, A and B packed once an item ----

#if TRELLIS_TILES
constexpr int MANY = 16;  // rows of a segment from which packing pays

struct Packed {
  std::vector<bf16> weights, x, s;
  std::vector<float> sums;
};

static void tile_shrink(const bf16 *x, int64_t x_stride, const bf16 *a, int in_tiles, int row_tiles, float scale, int s_stride, Packed &packed) {
  float *sums = packed.sums.data();
  for (int n = 0; n < row_tiles; n++) {
    _tile_zero(0);
    _tile_zero(1);
    for (int k = 0; k < in_tiles; k++) {
      _tile_loadd(4, a + (n * in_tiles + k) * TILE, 64);
      _tile_loadd(2, x + k * 32, x_stride * sizeof(bf16));
      _tile_loadd(3, x + 16 * x_stride + k * 32, x_stride * sizeof(bf16));
      _tile_dpbf16ps(0, 2, 4);
      _tile_dpbf16ps(1, 3, 4);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    for (int t = 0; t < 32; t++) store(packed.s.data() + t * s_stride + n * 16, load(sums + t * 16) * scale);
  }
}

// Four tiles of columns at a time, for then whole cache lines of y are read and written.
static void tile_expand(bf16 *y, int64_t y_stride, const bf16 *b, int s_tiles, int tokens, int from, int to, Packed &packed) {
  constexpr int WIDTH = 64;
  float *sums = packed.sums.data();
  const bf16 *s = packed.s.data();
  for (int c = from; c < to; c += WIDTH) {
    int columns = std::min(WIDTH, to - c);
    for (int n = 0; n < columns; n += 16, b += s_tiles * TILE) {
      _tile_zero(0);
      _tile_zero(1);
      for (int k = 0; k < s_tiles; k++) {
        _tile_loadd(4, b + k * TILE, 64);
        _tile_loadd(2, s + k * 32, s_tiles * 64);
        _tile_loadd(3, s + 16 * s_tiles * 32 + k * 32, s_tiles * 64);
        _tile_dpbf16ps(0, 2, 4);
        _tile_dpbf16ps(1, 3, 4);
      }
      _tile_stored(0, sums + n, WIDTH * sizeof(float));
      _tile_stored(1, sums + 16 * WIDTH + n, WIDTH * sizeof(float));
    }
    for (int t = 0; t < tokens; t++) {
      bf16 *at = y + t * y_stride + c;
      int n = 0;
      for (; n + LANES <= columns; n += LANES) store(at + n, load(at + n) + load(sums + t * WIDTH + n));
      if (n < columns) store(at + n, load(at + n, columns - n) + load(sums + t * WIDTH + n), columns - n);
    }
  }
}

static void tile_part(const Call<bf16> &call, const Item &item, const Pair<bf16> &pair, const Columns &columns) {
  thread_local Packed packed;
  int in = pair.in, in_tiles = (in + 31) / 32, row_tiles = (pair.rank + 15) / 16, s_tiles = (pair.rank + 31) / 32;
  int from = columns.from, to = columns.to, column_tiles = (to - from + 15) / 16;
  packed.weights.resize((size_t)(row_tiles * in_tiles + column_tiles * s_tiles) * TILE);
  packed.sums.resize(32 * 64);
  packed.s.assign((size_t)32 * s_tiles * 32, bf16{});
  bf16 *a = packed.weights.data(), *b = a + (size_t)row_tiles * in_tiles * TILE;
  pack_transposed(pair.a, in, pair.rank, in, a);
  pack_pairs(pair.b + (from - columns.first), pair.width, pair.rank, to - from, b);
  for (int done = 0; done < item.tokens; done += 32) {
    int tokens = std::min(32, item.tokens - done);
    const bf16 *x = call.x + (item.token + done) * call.x_stride;
    int64_t x_stride = call.x_stride;
    if (tokens < 32 || in % 32) {  // a tile reads 32 x 32 numbers, whosever they are
      packed.x.assign((size_t)32 * in_tiles * 32, bf16{});
      for (int t = 0; t < tokens; t++) std::memcpy(packed.x.data() + t * in_tiles * 32, x + t * x_stride, in * sizeof(bf16));
      x = packed.x.data();
      x_stride = in_tiles * 32;
    }
    tile_shrink(x, x_stride, a, in_tiles, row_tiles, pair.scale, s_tiles * 32, packed);
    tile_expand(call.y + (item.token + done) * call.y_stride, call.y_stride, b, s_tiles, tokens, from, to, packed);
  }
}

static bool tiles_serve(const Call<float> &, const Segment &) { return false; }
static void tile_part(const Call<float> &, const Item &, const Pair<float> &, const Columns &) {}
static bool tiles_serve(const Call<bf16> &, const Segment &segment) { return segment.tokens >= MANY && have_tiles(); }
#endif

// What is read after a part: the adapter's next one, or `then`'s first.
template <class T>
static Pair<T> next_of(const Group &group, int slot, int part, int then) {
  for (part++; part < group.parts; part++) {
    Pair<T> pair = Pair<T>::of(group, slot, part);
    if (pair.rank) return pair;
  }
  return Pair<T>::of(group, then, 0);
}

template <class T>
static void run(const Call<T> &call, const Segment &segment, const Item &item, const Segment &then) {
  const Group &group = call.group;
  int end = item.column + item.columns;
  for (int part = 0; part < group.parts; part++) {
    Pair<T> pair = Pair<T>::of(group, segment.slot, part);
    int first = group.offsets[part];
    Columns columns{first, std::max(item.column, first), std::min(end, first + pair.width)};
    if (columns.from >= columns.to || !pair.rank) continue;
#if TRELLIS_TILES
    if (tiles_serve(call, segment)) {
      tile_part(call, item, pair, columns);
      continue;
    }
#endif
    stream(call, item, pair, columns, next_of<T>(group, segment.slot, part, then.slot));
  }
}

template <class T>
static void add_lora(const Group &group, const Segment *segments, int64_t count, const void *x, int64_t x_stride, void *y, int64_t y_stride, int threads) {
  thread_local std::vector<Item> items;
  items.clear();
  plan(segments, count, group, threads, items);
  Call<T> call{group, (const T *)x, x_stride, (T *)y, y_stride};
  int n = (int)items.size();
  const Item *each = items.data();
  if (threads == 1 || n == 1) {
    Tiling tiling;
    for (int i = 0; i < n; i++) run(call, segments[each[i].segment], each[i], segments[each[std::min(i + threads, n - 1)].segment]);
    return;
  }
  auto one = [&](int i) { run(call, segments[each[i].segment], each[i], segments[each[std::min(i + threads, n - 1)].segment]); };
  bool even = is_even(segments, items, group);
#pragma omp parallel num_threads(threads)
  {
    Tiling tiling;
    if (even) {  // then a thread's weights are those that it fetched during the base's product
#pragma omp for schedule(static, 1)
      for (int i = 0; i < n; i++) one(i);
    } else {
#pragma omp for schedule(dynamic, 1)
      for (int i = 0; i < n; i++) one(i);
    }
  }
}

template <class T>
static void adapted(const Group &group, const Segment *segments, int64_t count, const T *x, int64_t x_stride, const T *weight, const float *bias, T *y, int64_t rows, int threads) {
  thread_local RowPlan kept;
  RowPlan &plan = kept;
  plan.cut(segments, count, group, rows, threads);
  LinearRows<T> product{x, x_stride, weight, bias, y, group.out, group.in, group.out};
  Call<T> call{group, x, x_stride, y, group.out};
  int pieces = (int)plan.pieces.size();
#pragma omp parallel num_threads(threads) if (threads > 1 && pieces > 1)
  {
    Tiling tiling;
#pragma omp for schedule(dynamic, 1)
    for (int number = 0; number < pieces; number++) {
      const RowPiece &piece = plan.pieces[number];
      multiply_rows(product, piece.from, piece.to);
      for (int at = piece.first; at < piece.last; at++) {
        const RowBlock &block = plan.blocks[at];
        const Segment &segment = segments[block.segment];
        run(call, segment, Item{block.segment, segment.token + block.from, block.rows, 0, (int)group.out}, segment);
      }
    }
  }
}

}  // namespace
}  // namespace trellis

extern "C" void trellis_add_lora(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const void *x, int64_t x_stride, void *y, int64_t y_stride, int is_bf16, int threads) {
  using namespace trellis;
  if (is_bf16)
    add_lora<bf16>(*group, segments, count, x, x_stride, y, y_stride, threads);
  else
    add_lora<float>(*group, segments, count, x, x_stride, y, y_stride, threads);
}

// y = x W^T + bias, and what the adapters add to it: a piece of rows after the other, so that y is written once.
extern "C" void trellis_adapted(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const void *x, int64_t x_stride, const void *weight, const float *bias, void *y, int64_t rows, int is_bf16, int threads) {
  using namespace trellis;
  if (is_bf16)
    adapted(*group, segments, count, (const bf16 *)x, x_stride, (const bf16 *)weight, bias, (bf16 *)y, rows, threads);
  else
    adapted(*group, segments, count, (const float *)x, x_stride, (const float *)weight, bias, (float *)y, rows, threads);
}
