// The gradients of the small operations between a decoder's products, in fp32, each row by itself; and
// the loss.
#include <limits>

#include "rows.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

void norm_row(const float *x, const float *weight, const float *grad, float *grad_x, int64_t size, float eps, float offset) {
  f32x16 squares = {}, along = {};
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 each = read(x + at, n);
    squares += each * each;
    along += each * read(grad + at, n) * (read(weight + at, n) + offset);
  });
  float scale = 1.0f / std::sqrt(sum(squares) / (float)size + eps);
  float back = scale * scale * scale * sum(along) / (float)size;
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    put(grad_x + at, read(grad + at, n) * (read(weight + at, n) + offset) * scale - read(x + at, n) * back, n);
  });
}

void silu_row(const float *gate, const float *up, const float *grad, float *grad_gate, float *grad_up, int64_t size) {
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 g = read(gate + at, n), dy = read(grad + at, n);
    f32x16 share = 1.0f / (1.0f + exponential(-g));
    put(grad_up + at, dy * g * share, n);
    put(grad_gate + at, dy * read(up + at, n) * share * (1.0f + g * (1.0f - share)), n);
  });
}

void turn_back(const float *from, float *to, const float *cos, const float *sin, int64_t turned, int64_t size) {
  int64_t half = turned / 2;
  for_vectors(half, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 low = read(from + at, n), high = read(from + half + at, n);
    put(to + at, low * read(cos + at, n) + high * read(sin + half + at, n), n);
    put(to + half + at, high * read(cos + half + at, n) - low * read(sin + at, n), n);
  });
  std::copy(from + turned, from + size, to + turned);
}

// The row's loss; the logits become its gradient.
float loss_row(float *logits, int64_t size, int64_t target, uint8_t *is_first) {
  f32x16 most = splat(-std::numeric_limits<float>::infinity());
  int64_t whole = size / LANES * LANES;
  for (int64_t at = 0; at < whole; at += LANES) {
    f32x16 each = load(logits + at);
    most = select(each > most, each, most);
  }
  float top = largest(most);
  for (int64_t at = whole; at < size; at++) top = logits[at] > top ? logits[at] : top;
  float own = logits[target];
  *is_first = own == top && std::find(logits, logits + target, top) == logits + target;
  f32x16 sums = {};
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 each = exponential(read(logits + at, n) - top);
    put(logits + at, each, n);
    sums += read(logits + at, n);  // zeros behind the last one
  });
  float total = sum(sums), scale = 1.0f / total;
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) { put(logits + at, read(logits + at, n) * scale, n); });
  logits[target] -= 1.0f;
  return std::log(total) + (top - own);
}

}  // namespace
}  // namespace trellis

extern "C" {

void trellis_rms_norm_backward(const float *x, int64_t x_stride, const float *weight, const float *grad, int64_t grad_stride, float *grad_x, int64_t rows, int64_t size, float eps, float offset, int threads) {
  using namespace trellis;
  for_rows(rows, rows * size, threads, [&](int64_t row) { norm_row(x + row * x_stride, weight, grad + row * grad_stride, grad_x + row * size, size, eps, offset); });
}

void trellis_silu_mul_backward(const float *gate, int64_t gate_stride, const float *up, int64_t up_stride, const float *grad, int64_t grad_stride, float *grad_gate, float *grad_up, int64_t grads_stride, int64_t rows, int64_t size, int threads) {
  using namespace trellis;
  for_rows(rows, rows * size, threads, [&](int64_t row) {
    silu_row(gate + row * gate_stride, up + row * up_stride, grad + row * grad_stride, grad_gate + row * grads_stride, grad_up + row * grads_stride, size);
  });
}

void trellis_turn_heads_back(const float *from, int64_t from_token, int64_t from_head, float *to, int64_t to_token, int64_t to_head, int64_t heads, const float *cos, const float *sin, int64_t tokens, int64_t turned, int64_t size, int threads) {
  using namespace trellis;
  for_rows(tokens, tokens * heads * size, threads, [&](int64_t token) {
    for (int64_t head = 0; head < heads; head++)
      turn_back(from + token * from_token + head * from_head, to + token * to_token + head * to_head, cos + token * turned, sin + token * turned, turned, size);
  });
}

void trellis_cross_entropy(float *logits, int64_t stride, const int64_t *targets, float *losses, uint8_t *is_first, int64_t rows, int64_t size, int threads) {
  using namespace trellis;
  for_rows(rows, rows * size, threads, [&](int64_t row) { losses[row] = loss_row(logits + row * stride, size, targets[row], is_first + row); });
}
}
