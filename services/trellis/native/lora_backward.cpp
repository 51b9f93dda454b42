// Gradients of y += scale * (x A^T) B for the rows of each segment, fp32: added to those of x, A and B in place.
//
// A segment reads its own rows and writes those of x and of its adapter. Work is cut into blocks of a segment's rows (s, its
// gradient, that of x), then into strips of columns of an adapter's gradients, to which its segments' sums are added in their
// order. So what is added depends on the segment alone, never on the others or the count of threads.
#include <algorithm>
#include <vector>

#include "adapters.h"
#include "linear.h"
#include "lora_rows.h"
#include "row_pieces.h"

namespace trellis {
namespace {

// Rows of some width, so many floats apart.
template <class T>
struct Rows {
  T *first;
  int64_t stride;
  int count;

  T *at(int row) const { return first + row * stride; }
};

template <int LEFT>
static void dots_of(Rows<const float> left, int from, Rows<const float> right, int width, float scale, float *out) {
  const float *x[LEFT];
  for (int l = 0; l < LEFT; l++) x[l] = left.at(from + l);
  constexpr int MANY = WIDE ? (LEFT <= 2 ? 8 : 4) : (LEFT <= 2 ? 2 : 1);
  Ahead none;
  int r = 0;
  float *to = out + (int64_t)from * right.count;
  for (; r + MANY <= right.count; r += MANY) shrink_block<float, LEFT, MANY>(x, right.at(r), right.stride, width, scale, to + r, right.count, none);
  for (; r < right.count; r++) shrink_block<float, LEFT, 1>(x, right.at(r), right.stride, width, scale, to + r, right.count, none);
}

// out (left, right) = scale * left right^T
static void dots(Rows<const float> left, Rows<const float> right, int width, float scale, float *out) {
  int l = 0;
  for (; l + 4 <= left.count; l += 4) dots_of<4>(left, l, right, width, scale, out);
  for (; l < left.count; l++) dots_of<1>(left, l, right, width, scale, out);
}

template <int INTO>
static void sums_of(Rows<float> into, int from, const float *factors, Rows<const float> rows, int width) {
  alignas(64) float sums[INTO * SPAN];
  Ahead none;
  for (int c = 0; c < width; c += SPAN) {
    float *y[INTO];
    for (int n = 0; n < INTO; n++) y[n] = into.at(from + n) + c;
    expand_span<float, INTO>({rows.first + c, rows.stride, factors + (int64_t)from * rows.count, rows.count, sums}, y, std::min(SPAN, width - c), none);
  }
}

// into += factors (into, rows) * rows
static void add_sums(Rows<float> into, const float *factors, Rows<const float> rows, int width) {
  int n = 0;
  for (; n + 4 <= into.count; n += 4) sums_of<4>(into, n, factors, rows, width);
  for (; n < into.count; n++) sums_of<1>(into, n, factors, rows, width);
}

struct Call {
  const Group &group;
  const float *x, *grad_y;
  int64_t x_stride, grad_y_stride;
  float *grad_x;  // null where none is wanted
  int64_t grad_x_stride;
  float *grad;  // as the group's values
};

// Some rows of a segment, with where its products lie: for each part s and its gradient, (tokens, rows) each.
struct Block {
  const Segment *segment;
  float *products;
  int from, tokens;
};

// Some columns of A's or B's gradient, of one adapter; `first` is its first segment.
struct Strip {
  int first, part, column, width;
  bool is_a;
};

constexpr int COLUMNS = 256;  // a multiple of 64, likewise

// Numbers of a segment's products: for each part s and its gradient.
static int64_t products_of(const Group &group, const Segment &segment, int parts) {
  int64_t rows = 0;
  for (int part = 0; part < parts; part++) rows += Pair<float>::of(group, segment.slot, part).rank;
  return 2 * rows * segment.tokens;
}

static void shrink(const Call &call, const Block &block) {
  const Group &group = call.group;
  const Segment &segment = *block.segment;
  int64_t token = segment.token + block.from;
  float *products = block.products;
  for (int part = 0; part < group.parts; part++) {
    Pair<float> pair = Pair<float>::of(group, segment.slot, part);
    if (!pair.rank) continue;
    int64_t size = (int64_t)segment.tokens * pair.rank;
    float *s = products + (int64_t)block.from * pair.rank, *grad_s = s + size;
    Rows<const float> a{pair.a, pair.in, pair.rank}, b{pair.b, pair.width, pair.rank};
    dots({call.x + token * call.x_stride, call.x_stride, block.tokens}, a, pair.in, pair.scale, s);
    dots({call.grad_y + token * call.grad_y_stride + group.offsets[part], call.grad_y_stride, block.tokens}, b, pair.width, pair.scale, grad_s);
    if (call.grad_x) add_sums({call.grad_x + token * call.grad_x_stride, call.grad_x_stride, block.tokens}, grad_s, a, pair.in);
    products += 2 * size;
  }
}

static void add_strip(const Call &call, const Segment &segment, const float *products, const Strip &strip) {
  thread_local std::vector<float> turned;
  const Group &group = call.group;
  Pair<float> pair = Pair<float>::of(group, segment.slot, strip.part);
  int rows = pair.rank, tokens = segment.tokens;
  int64_t size = (int64_t)tokens * rows;
  const float *factors = products + products_of(group, segment, strip.part) + strip.is_a * size;
  turned.resize(size);
  for (int t = 0; t < tokens; t++)
    for (int r = 0; r < rows; r++) turned[(int64_t)r * tokens + t] = factors[(int64_t)t * rows + r];
  float *grad = call.grad + ((strip.is_a ? pair.a : pair.b) - (const float *)group.values) + strip.column;
  if (strip.is_a)
    add_sums({grad, pair.in, rows}, turned.data(), {call.x + segment.token * call.x_stride + strip.column, call.x_stride, tokens}, strip.width);
  else
    add_sums({grad, pair.width, rows}, turned.data(), {call.grad_y + segment.token * call.grad_y_stride + group.offsets[strip.part] + strip.column, call.grad_y_stride, tokens}, strip.width);
}

struct Work {
  std::vector<float> products;
  std::vector<int64_t> starts;  // of each segment's products
  RowPlan rows;
  std::vector<Strip> strips;
};

static void plan(const Group &group, const Segment *segments, int64_t count, Work &work) {
  work.starts.assign(1, 0);
  for (int64_t i = 0; i < count; i++) work.starts.push_back(work.starts.back() + (counts(segments[i], group) ? products_of(group, segments[i], (int)group.parts) : 0));
  work.products.resize(work.starts.back());
  work.strips.clear();
  std::vector<char> seen;
  for (int64_t i = 0; i < count; i++) {
    const Segment &segment = segments[i];
    if (!counts(segment, group)) continue;
    if (segment.slot >= (int)seen.size()) seen.resize(segment.slot + 1);
    if (seen[segment.slot]) continue;
    seen[segment.slot] = 1;
    for (int part = 0; part < group.parts; part++) {
      if (!Pair<float>::of(group, segment.slot, part).rank) continue;
      int widths[2] = {group.width(part), (int)group.in};
      for (int is_a = 0; is_a < 2; is_a++)
        for (int column = 0; column < widths[is_a]; column += COLUMNS) work.strips.push_back({(int)i, part, column, std::min(COLUMNS, widths[is_a] - column), is_a == 1});
    }
  }
}

// A piece of rows after the other, then the gradients of the adapters, to which each adapter's segments add in their order.
void backward(const Call &call, const Segment *segments, int64_t count, int64_t rows, const LinearRows<float> *product, int threads) {
  thread_local Work kept;
  Work &work = kept;
  plan(call.group, segments, count, work);
  work.rows.cut(segments, count, call.group, rows, threads);
  int pieces = (int)work.rows.pieces.size(), strips = (int)work.strips.size();
#pragma omp parallel num_threads(threads) if (threads > 1 && pieces + strips > 1)
  {
#pragma omp for schedule(dynamic, 1)
    for (int number = 0; number < pieces; number++) {
      const RowPiece &piece = work.rows.pieces[number];
      if (product) multiply_rows(*product, piece.from, piece.to);
      for (int at = piece.first; at < piece.last; at++) {
        const RowBlock &block = work.rows.blocks[at];
        shrink(call, {segments + block.segment, work.products.data() + work.starts[block.segment], block.from, block.rows});
      }
    }
#pragma omp for schedule(dynamic, 1)
    for (int i = 0; i < strips; i++) {
      const Strip &strip = work.strips[i];
      for (int64_t n = strip.first; n < count; n++)  // the adapter's segments, in their order
        if (counts(segments[n], call.group) && segments[n].slot == segments[strip.first].slot) add_strip(call, segments[n], work.products.data() + work.starts[n], strip);
    }
  }
}

}  // namespace
}  // namespace trellis

extern "C" void trellis_lora_backward(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const float *x, int64_t x_stride, const float *grad_y, int64_t grad_y_stride, float *grad_x, int64_t grad_x_stride, float *grad, int64_t rows, int threads) {
  using namespace trellis;
  backward({*group, x, grad_y, x_stride, grad_y_stride, grad_x, grad_x_stride, grad}, segments, count, rows, nullptr, threads);
}

// The same with the gradient of x from the base's product too: grad_x = grad_y W, and what the adapters add to it.
extern "C" void trellis_adapted_backward(const trellis::Group *group, const trellis::Segment *segments, int64_t count, const float *x, int64_t x_stride, const float *grad_y, int64_t grad_y_stride, const float *weight, float *grad_x, float *grad, int64_t rows, int threads) {
  using namespace trellis;
  LinearRows<float> product{grad_y, grad_y_stride, weight, nullptr, grad_x, group->in, group->out, group->in};
  backward({*group, x, grad_y, x_stride, grad_y_stride, grad_x, group->in, grad}, segments, count, rows, &product, threads);
}
