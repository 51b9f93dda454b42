// A whole decoder layer of a step: between its kernels nothing is left to Python, which would take as long as some of them.
//
// The parts are those that are called one by one elsewhere, in the same order and with the same roundings: the same bits.
#include <vector>

#include "kernels.h"
#include "linear.h"
#include "rows.h"

namespace trellis {
namespace {  // each file has its own names: two of one name in a library would be one

constexpr int64_t MANY_ROWS = 256;

struct Norm {
  const void *weight;  // or none, and no norm
  float eps, offset;
};

struct Linear {
  const void *weight;  // in strips
  const float *bias;   // or none
  const Group *group;  // what its adapters add
  int64_t in, out;
};

struct Decoder {
  Norm before, between, queries, keys;
  Linear qkv, output, gate_up, down;
  const Cache *cache;
  int64_t heads, rotated;  // of the queries; numbers of a head that are turned
  float scale, softcap;
  int64_t window;
};

// What all layers of a step have in common.
struct DecoderStep {
  const Step *step;
  const Segment *segments;
  int64_t segment_count, tokens;
  const void *cos, *sin;
};

template <class T>
struct Scratch {
  std::vector<T> normed, qkv, attended, gate_up, gated, added;
};

template <class T>
T *room(std::vector<T> &numbers, int64_t count) {
  if ((int64_t)numbers.size() < count) numbers.resize(count);
  return numbers.data();
}

template <class T>
struct Layer {
  const Decoder &layer;
  const DecoderStep &step;
  int threads;
  static constexpr int IS_BF16 = sizeof(T) == 2;

  void norm(const Norm &norm, const T *x, int64_t stride, T *out, int64_t out_stride, int64_t size) const {
    trellis_rms_norm(x, stride, norm.weight, out, out_stride, step.tokens, size, norm.eps, norm.offset, IS_BF16, threads);
  }

  // An adapter's weights in a group lie in one piece, in the order in which they are read.
  static void fetch_after(const Group &group, const Segment &segment, std::vector<Piece> &pieces) {
    if (!counts(segment, group)) return;
    Piece piece{};
    for (int part = 0; part < group.parts; part++) {
      auto pair = Pair<T>::of(group, segment.slot, part);
      if (!pair.rank) continue;
      if (!piece.at) piece.at = (const char *)pair.a;
      piece.end = (const char *)(pair.b + (int64_t)pair.rank * pair.width);
    }
    pieces.push_back(piece);
  }

  // Where there are many rows, adapters are added to each piece of them while it lies in the cache.
  void multiply(const Linear &linear, const T *x, T *y) const {
    if (step.segment_count && step.tokens >= MANY_ROWS)
      return trellis_adapted(linear.group, step.segments, step.segment_count, x, linear.in, linear.weight, linear.bias, y, step.tokens, IS_BF16, threads);
    thread_local std::vector<Piece> pieces;
    pieces.clear();
    for (int64_t i = 0; i < step.segment_count; i++) fetch_after(*linear.group, step.segments[i], pieces);
    LinearRows<T> rows{x, linear.in, (const T *)linear.weight, linear.bias, y, linear.out, linear.in, linear.out};
    multiply_all(rows, step.tokens, pieces.data(), (int64_t)pieces.size(), threads);
    if (step.segment_count) trellis_add_lora(linear.group, step.segments, step.segment_count, x, linear.in, y, linear.out, IS_BF16, threads);
  }

  void norm_heads(const Norm &each, T *heads, int64_t count, int64_t size) const {
    if (each.weight)
      for (int64_t head = 0; head < count; head++) norm(each, heads + head * size, layer.qkv.out, heads + head * size, layer.qkv.out, size);
  }

  void attend(T *qkv, T *attended) const {
    const Cache &cache = *layer.cache;
    int64_t size = cache.key_size, row = layer.qkv.out;
    T *q = qkv, *k = q + layer.heads * size, *v = k + cache.heads * size;
    norm_heads(layer.queries, q, layer.heads, size);
    norm_heads(layer.keys, k, cache.heads, size);
    trellis_rotary(q, layer.heads, row, size, k, cache.heads, row, size, step.cos, step.sin, step.tokens, layer.rotated, IS_BF16, threads);
    trellis_write_cache(&cache, step.step, k, row, size, v, row, cache.value_size, step.tokens, IS_BF16, threads);
    trellis_attend(&cache, step.step, q, row, size, attended, layer.heads, layer.scale, layer.softcap, (int)layer.window, IS_BF16, threads);
  }

  // sum = x + y; may be one of them.
  void add(const T *x, const T *y, T *sum, int64_t size) const {
    for_rows(step.tokens, step.tokens * size, threads, [&](int64_t row) {
      for_vectors(size, [&](int64_t at, int n) __attribute__((always_inline)) {
        int64_t place = row * size + at;
        put(sum + place, read(x + place, n) + read(y + place, n), n);
      });
    });
  }

  void run(const T *x, T *y) const {
    thread_local Scratch<T> scratch;
    int64_t tokens = step.tokens, hidden = layer.qkv.in, wide = layer.down.in;
    T *normed = room(scratch.normed, tokens * hidden), *qkv = room(scratch.qkv, tokens * layer.qkv.out);
    T *attended = room(scratch.attended, tokens * layer.output.in), *added = room(scratch.added, tokens * hidden);
    T *gate_up = room(scratch.gate_up, tokens * layer.gate_up.out), *gated = room(scratch.gated, tokens * wide);
    norm(layer.before, x, hidden, normed, hidden, hidden);
    multiply(layer.qkv, normed, qkv);
    attend(qkv, attended);
    multiply(layer.output, attended, added);
    add(x, added, y, hidden);
    norm(layer.between, y, hidden, normed, hidden, hidden);
    multiply(layer.gate_up, normed, gate_up);
    trellis_silu_mul(gate_up, layer.gate_up.out, gate_up + wide, layer.gate_up.out, gated, tokens, wide, IS_BF16, threads);
    multiply(layer.down, gated, added);
    add(y, added, y, hidden);
  }
};

}  // namespace
}  // namespace trellis

// y = the layer's answer to x, both (tokens, hidden), the numbers side by side.
extern "C" void trellis_decoder_layer(const void *layer, const void *step, const void *x, void *y, int is_bf16, int threads) {
  using namespace trellis;
  const Decoder &each = *(const Decoder *)layer;
  const DecoderStep &all = *(const DecoderStep *)step;
  if (is_bf16)
    Layer<bf16>{each, all, threads}.run((const bf16 *)x, (bf16 *)y);
  else
    Layer<float>{each, all, threads}.run((const float *)x, (float *)y);
}
