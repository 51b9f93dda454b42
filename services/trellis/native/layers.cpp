// The small operations between a decoder's products, each one pass over its numbers; computed in fp32, rounded once.
#include "kernels.h"
#include "rows.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

template <class T>
void normalise(const T *x, const T *weight, T *out, int64_t size, float eps, float offset) {
  f32x16 squares[4] = {};
  int64_t i = 0;
  for (; i + 4 * LANES <= size; i += 4 * LANES)
    for (int k = 0; k < 4; k++) {
      f32x16 each = load(x + i + k * LANES);
      squares[k] += each * each;
    }
  for_vectors(size - i, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 each = read(x + i + at, n);
    squares[0] += each * each;
  });
  float mean = sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / (float)size;
  float scale = 1.0f / std::sqrt(mean + eps);
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    put(out + at, read(x + at, n) * scale * (read(weight + at, n) + offset), n);
  });
}

template <class T>
void silu_row(const T *gate, const T *up, T *out, int64_t size) {
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 g = read(gate + at, n);
    put(out + at, g / (1.0f + exponential(-g)) * read(up + at, n), n);
  });
}

// x Φ(x) by its approximation with tanh, tanh(u) = 2 / (1 + e^-2u) - 1 (https://arxiv.org/abs/1606.08415).
void gelu_row(const float *gate, const float *up, float *out, int64_t size) {
  for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 g = read(gate + at, n);
    f32x16 u = 0.7978845608028654f * (g + 0.044715f * g * g * g);
    put(out + at, g / (1.0f + exponential(-2.0f * u)) * read(up + at, n), n);
  });
}

template <class T>
void rotate(T *head, const T *cos, const T *sin, int64_t half) {
  for_vectors(half, [&](int64_t at, int n) __attribute__((always_inline)) {
    f32x16 low = read(head + at, n), high = read(head + half + at, n);
    put(head + at, low * read(cos + at, n) - high * read(sin + at, n), n);
    put(head + half + at, high * read(cos + half + at, n) + low * read(sin + half + at, n), n);
  });
}

template <class T>
struct Heads {
  T *at;
  int64_t count, token_stride, head_stride;
};

template <class T>
void rotate_all(Heads<T> q, Heads<T> k, const T *cos, const T *sin, int64_t tokens, int64_t size, int threads) {
  for_rows(tokens, tokens * (q.count + k.count) * size, threads, [&](int64_t token) {
    for (const Heads<T> &heads : {q, k})
      for (int64_t head = 0; head < heads.count; head++)
        rotate(heads.at + token * heads.token_stride + head * heads.head_stride, cos + token * size, sin + token * size, size / 2);
  });
}

}  // namespace
}  // namespace trellis

extern "C" {

void trellis_rms_norm(const void *x, int64_t stride, const void *weight, void *out, int64_t out_stride, int64_t rows, int64_t size, float eps, float offset, int is_bf16, int threads) {
  using namespace trellis;
  auto run = [&](auto *typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    for_rows(rows, rows * size, threads, [&](int64_t row) {
      normalise((const T *)x + row * stride, (const T *)weight, (T *)out + row * out_stride, size, eps, offset);
    });
  };
  is_bf16 ? run((bf16 *)nullptr) : run((float *)nullptr);
}

void trellis_silu_mul(const void *gate, int64_t gate_stride, const void *up, int64_t up_stride, void *out, int64_t rows, int64_t size, int is_bf16, int threads) {
  using namespace trellis;
  auto run = [&](auto *typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    for_rows(rows, rows * size, threads, [&](int64_t row) {
      silu_row((const T *)gate + row * gate_stride, (const T *)up + row * up_stride, (T *)out + row * size, size);
    });
  };
  is_bf16 ? run((bf16 *)nullptr) : run((float *)nullptr);
}

void trellis_gelu_mul(const float *gate, int64_t gate_stride, const float *up, int64_t up_stride, float *out, int64_t rows, int64_t size, int threads) {
  using namespace trellis;
  for_rows(rows, rows * size, threads, [&](int64_t row) {
    gelu_row(gate + row * gate_stride, up + row * up_stride, out + row * size, size);
  });
}

void trellis_rotary(void *q, int64_t q_heads, int64_t q_token, int64_t q_head, void *k, int64_t k_heads, int64_t k_token, int64_t k_head, const void *cos, const void *sin, int64_t tokens, int64_t size, int is_bf16, int threads) {
  using namespace trellis;
  auto run = [&](auto *typed) {
    using T = std::remove_pointer_t<decltype(typed)>;
    rotate_all<T>({(T *)q, q_heads, q_token, q_head}, {(T *)k, k_heads, k_token, k_head}, (const T *)cos, (const T *)sin, tokens, size, threads);
  };
  is_bf16 ? run((bf16 *)nullptr) : run((float *)nullptr);
}
}
