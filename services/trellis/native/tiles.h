// AMX: products of bf16 tiles, where the CPU has them and the kernel lets us use them.
//
// A tile is 16 rows of 64 bytes. The right factor of a product lies in pairs: row k holds (2k, n), (2k + 1, n) for 16 n.
#pragma once
#include "vectors.h"

#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define TRELLIS_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define TRELLIS_TILES 0
#endif

namespace trellis {

#if TRELLIS_TILES

constexpr int TILE = 512;  // bf16 numbers

// Asked once a process: tiles are a state that Linux saves only for programs that asked (ARCH_REQ_XCOMP_PERM, XTILEDATA).
inline bool have_tiles() {
  static const bool have = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
  return have;
}

// All eight tiles of 16 x 64 bytes while it lives; oneDNN sets its own when it needs them.
struct Tiling {
  struct alignas(64) Palette {
    uint8_t id = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  Tiling() {
    static const Palette palette;
    if (have_tiles()) _tile_loadconfig(&palette);
  }
  ~Tiling() {
    if (have_tiles()) _tile_release();
  }
};

// Rows of 16 pairs <-> columns of them.
TRELLIS_INLINE void transpose(u32x16 *rows) {
  const i32x16 low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  const i32x16 high = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  for (int round = 0; round < 4; round++) {  // four perfect shuffles of 256 numbers
    u32x16 next[16];
    for (int i = 0; i < 8; i++) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + 8], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + 8], high);
    }
    for (int i = 0; i < 16; i++) rows[i] = next[i];
  }
}

// (rows, columns) with a stride -> the transposed as right factors: tiles [rows / 16][columns / 32], zeros at the edges.
inline void pack_transposed(const bf16 *from, int64_t stride, int rows, int columns, bf16 *to) {
  for (int r = 0; r < rows; r += 16)
    for (int c = 0; c < columns; c += 32, to += TILE) {
      int height = rows - r < 16 ? rows - r : 16, width = columns - c;
      u32x16 pairs[16] = {};
      for (int i = 0; i < height; i++) {
        const bf16 *row = from + (r + i) * stride + c;
        pairs[i] = width >= 32 ? load_pack(row) : load_pack(row, width);
      }
      transpose(pairs);
      std::memcpy(to, pairs, sizeof(pairs));
    }
}

// (rows, columns) with a stride -> right factors: tiles [columns / 16][rows / 32], zeros at the edges.
inline void pack_pairs(const bf16 *from, int64_t stride, int rows, int columns, bf16 *to) {
  for (int c = 0; c < columns; c += 16)
    for (int r = 0; r < rows; r += 32, to += TILE)
      for (int i = 0; i < 32; i += 2) {
        const bf16 *row = from + (r + i) * stride + c;
        u32x16 pairs = {};
        if (r + i < rows) pairs = load_pairs(row, r + i + 1 < rows ? row + stride : nullptr, columns - c);
        std::memcpy(to + i * 16, &pairs, sizeof(pairs));
      }
}

#else

struct Tiling {
  Tiling() {}
};

#endif

}  // namespace trellis
