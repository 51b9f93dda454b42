// Causal attention of short sequences that lie one after another, fp32, forth and back: each sequence and key-value head is
// one item, computed by one thread from its own rows alone.
//
// https://arxiv.org/abs/1706.03762, section 3.2.1; the gradients as in https://arxiv.org/abs/2205.14135, appendix B.4.
#include <algorithm>
#include <limits>
#include <vector>

#include "vectors.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int ROWS = 4;  // queries that pass over the keys together

struct Heads {  // (tokens, heads, size), the numbers of one head in one piece
  float *first;
  int64_t token, head;

  float *at(int64_t t, int64_t h) const { return first + t * token + h * head; }
};

struct Call {
  Heads q, k, v;
  const int32_t *spans;  // (sequences, 2): first row and rows
  int64_t query_heads, key_heads, size;
  float scale;
  int64_t window;  // how many keys a query reads, itself included

  int64_t group() const { return query_heads / key_heads; }
};

int64_t padded(int64_t length) { return (length + LANES - 1) / LANES * LANES; }

// (size, padded length) of one head's rows, zeros behind the last.
void turn(const Heads &from, int64_t start, int64_t length, int64_t head, int64_t size, std::vector<float> &to) {
  int64_t width = padded(length);
  to.assign(size * width, 0.0f);
  for (int64_t t = 0; t < length; t++) {
    const float *row = from.at(start + t, head);
    for (int64_t d = 0; d < size; d++) to[d * width + t] = row[d];
  }
}

// out (ROWS, width): each row's dot products with the first `width` turned rows.
TRELLIS_INLINE void dots(const float *const *rows, const float *turned, int64_t width, int64_t end, int64_t size, float *out) {
  for (int64_t at = 0; at < end; at += LANES) {
    f32x16 sums[ROWS] = {};
    for (int64_t d = 0; d < size; d++) {
      f32x16 each = load(turned + d * width + at);
      for (int r = 0; r < ROWS; r++) sums[r] += rows[r][d] * each;
    }
    for (int r = 0; r < ROWS; r++) store(out + r * width + at, sums[r]);
  }
}

const i32x16 COUNT = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Where query i reads key at + lane.
TRELLIS_INLINE i32x16 reads(int64_t i, int64_t at, int64_t window) {
  i32x16 key = COUNT + (int32_t)at;
  return (key <= (int32_t)i) & (key > (int32_t)std::max<int64_t>(i - window, -1));
}

// Scores to probabilities, zero where nothing is read; the logarithm of what they were divided by.
TRELLIS_INLINE float soften(float *scores, int64_t i, int64_t end, float scale, int64_t window) {
  f32x16 none = splat(-std::numeric_limits<float>::infinity()), most = none;
  for (int64_t at = 0; at < end; at += LANES) {
    f32x16 each = select(reads(i, at, window), load(scores + at) * scale, none);
    store(scores + at, each);
    most = select(each > most, each, most);
  }
  float top = largest(most);
  f32x16 sums = {};
  for (int64_t at = 0; at < end; at += LANES) {
    i32x16 read = reads(i, at, window);
    f32x16 each = (f32x16)((i32x16)exponential(load(scores + at) - top) & read);
    store(scores + at, each);
    sums += each;
  }
  float total = sum(sums);
  for (int64_t at = 0; at < end; at += LANES) store(scores + at, load(scores + at) / total);
  return top + std::log(total);
}

// to (ROWS rows, size) = factors (ROWS, width) times the rows begin..end of one head.
TRELLIS_INLINE void mix(const float *factors, int64_t width, const Heads &from, int64_t start, int64_t head, int64_t begin, int64_t end, int64_t size, float *const *to, int rows) {
  for (int64_t d = 0; d < size; d += LANES) {
    f32x16 sums[ROWS] = {};
    for (int64_t j = begin; j < end; j++) {
      f32x16 each = load(from.at(start + j, head) + d);
      for (int r = 0; r < ROWS; r++) sums[r] += factors[r * width + j] * each;
    }
    for (int r = 0; r < rows; r++) store(to[r] + d, sums[r]);
  }
}

// to (length, size) += factors (ROWS, width) transposed times the rows.
TRELLIS_INLINE void spread(const float *factors, int64_t width, const float *const *rows, int64_t begin, int64_t end, int64_t size, float *to) {
  for (int64_t j = begin; j < end; j++)
    for (int64_t d = 0; d < size; d += LANES) {
      f32x16 sum = load(to + j * size + d);
      for (int r = 0; r < ROWS; r++) sum += factors[r * width + j] * load(rows[r] + d);
      store(to + j * size + d, sum);
    }
}

struct Room {
  std::vector<float> keys, values, scores, slopes, nothing, grad_k, grad_v;
};

// The rows i.. of a head, as many as there are; behind the last one zeros.
int rows_at(const Heads &from, int64_t start, int64_t length, int64_t head, int64_t i, const float *nothing, const float **to) {
  int count = (int)std::min<int64_t>(ROWS, length - i);
  for (int r = 0; r < ROWS; r++) to[r] = r < count ? from.at(start + i + r, head) : nothing;
  return count;
}

void forward(const Call &call, int64_t sequence, int64_t key_head, const Heads &out, float *logs, Room &room) {
  int64_t start = call.spans[2 * sequence], length = call.spans[2 * sequence + 1], width = padded(length), size = call.size;
  turn(call.k, start, length, key_head, size, room.keys);
  room.scores.resize(ROWS * width);
  room.nothing.assign(size, 0.0f);
  for (int64_t head = key_head * call.group(); head < (key_head + 1) * call.group(); head++)
    for (int64_t i = 0; i < length; i += ROWS) {
      const float *rows[ROWS];
      int count = rows_at(call.q, start, length, head, i, room.nothing.data(), rows);
      int64_t end = std::min(padded(i + count), width), first = std::max<int64_t>(0, i - call.window + 1);
      dots(rows, room.keys.data(), width, end, size, room.scores.data());
      float *to[ROWS];
      for (int r = 0; r < ROWS; r++) {
        if (r < count) {
          logs[(start + i + r) * call.query_heads + head] = soften(room.scores.data() + r * width, i + r, end, call.scale, call.window);
          to[r] = out.at(start + i + r, head);
        } else {
          std::fill_n(room.scores.data() + r * width, end, 0.0f);
        }
      }
      mix(room.scores.data(), width, call.v, start, key_head, first, i + count, size, to, count);
    }
}

void backward(const Call &call, int64_t sequence, int64_t key_head, const Heads &out, const float *logs, const Heads &grad, const Heads &grad_q, const Heads &grad_k, const Heads &grad_v, Room &room) {
  int64_t start = call.spans[2 * sequence], length = call.spans[2 * sequence + 1], width = padded(length), size = call.size;
  turn(call.k, start, length, key_head, size, room.keys);
  turn(call.v, start, length, key_head, size, room.values);
  room.scores.resize(ROWS * width);
  room.slopes.resize(ROWS * width);
  room.nothing.assign(size, 0.0f);
  room.grad_k.assign(length * size, 0.0f);
  room.grad_v.assign(length * size, 0.0f);
  float *scores = room.scores.data(), *slopes = room.slopes.data();
  for (int64_t head = key_head * call.group(); head < (key_head + 1) * call.group(); head++)
    for (int64_t i = 0; i < length; i += ROWS) {
      const float *rows[ROWS], *grads[ROWS];
      int count = rows_at(call.q, start, length, head, i, room.nothing.data(), rows);
      rows_at(grad, start, length, head, i, room.nothing.data(), grads);
      int64_t end = std::min(padded(i + count), width), first = std::max<int64_t>(0, i - call.window + 1);
      dots(rows, room.keys.data(), width, end, size, scores);
      dots(grads, room.values.data(), width, end, size, slopes);
      float *to[ROWS];
      for (int r = 0; r < ROWS; r++) {
        if (r >= count) {
          std::fill_n(scores + r * width, end, 0.0f);
          std::fill_n(slopes + r * width, end, 0.0f);
          continue;
        }
        to[r] = grad_q.at(start + i + r, head);
        const float *own = out.at(start + i + r, head);
        f32x16 sums = {};
        for (int64_t d = 0; d < size; d += LANES) sums += load(own + d) * load(grads[r] + d);
        float along = sum(sums), log = logs[(start + i + r) * call.query_heads + head];
        for (int64_t at = 0; at < end; at += LANES) {
          i32x16 read = reads(i + r, at, call.window);
          f32x16 share = (f32x16)((i32x16)exponential(load(scores + r * width + at) * call.scale - log) & read);
          store(scores + r * width + at, share);
          f32x16 slope = share * (load(slopes + r * width + at) - along) * call.scale;
          store(slopes + r * width + at, (f32x16)((i32x16)slope & read));
        }
      }
      mix(slopes, width, call.k, start, key_head, first, i + count, size, to, count);
      spread(slopes, width, rows, first, i + count, size, room.grad_k.data());
      spread(scores, width, grads, first, i + count, size, room.grad_v.data());
    }
  for (int64_t t = 0; t < length; t++) {
    std::copy_n(room.grad_k.data() + t * size, size, grad_k.at(start + t, key_head));
    std::copy_n(room.grad_v.data() + t * size, size, grad_v.at(start + t, key_head));
  }
}

template <class Work>
void for_items(const Call &call, int64_t sequences, int threads, const Work &work) {
  int64_t items = sequences * call.key_heads;
#pragma omp parallel num_threads(threads) if (threads > 1 && items > 1)
  {
    thread_local Room room;
#pragma omp for schedule(dynamic, 4)
    for (int64_t item = 0; item < items; item++) work(item / call.key_heads, item % call.key_heads, room);
  }
}

}  // namespace
}  // namespace trellis

extern "C" {

// `tensors`: q, k, v and the result; `strides`: of each, a token's and a head's. `logs` is (tokens, query heads).
void trellis_packed_attention(float *const *tensors, const int64_t *strides, const int32_t *spans, int64_t sequences, int64_t query_heads, int64_t key_heads, int64_t size, float scale, int64_t window, float *logs, int threads) {
  using namespace trellis;
  auto heads = [&](int n) { return Heads{tensors[n], strides[2 * n], strides[2 * n + 1]}; };
  Call call{heads(0), heads(1), heads(2), spans, query_heads, key_heads, size, scale, window};
  Heads out = heads(3);
  for_items(call, sequences, threads, [&](int64_t sequence, int64_t head, Room &room) { forward(call, sequence, head, out, logs, room); });
}

// `tensors`: q, k, v, the result, its gradient, and the gradients of q, k and v.
void trellis_packed_attention_backward(float *const *tensors, const int64_t *strides, const int32_t *spans, int64_t sequences, int64_t query_heads, int64_t key_heads, int64_t size, float scale, int64_t window, const float *logs, int threads) {
  using namespace trellis;
  auto heads = [&](int n) { return Heads{tensors[n], strides[2 * n], strides[2 * n + 1]}; };
  Call call{heads(0), heads(1), heads(2), spans, query_heads, key_heads, size, scale, window};
  for_items(call, sequences, threads, [&](int64_t sequence, int64_t head, Room &room) {
    backward(call, sequence, head, heads(3), logs, heads(4), heads(5), heads(6), heads(7), room);
  });
}
}
