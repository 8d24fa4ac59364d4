// The device code of the NVFP4 quantizer, run thread after thread on the host: the same arithmetic, the
// same places, no GPU. Counts how often every byte of the output is written.
//
//   nvfp4_on_host IN OUT
//   IN:  int32 m, n, padded_m, padded_n, scale_rows, in, layout, passes; float g (0: computed); x [m, n]
//   OUT: float g; codes; scales; then one count (uint8) for each byte of codes and scales
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "quantize/nvfp4_block.cuh"
#include "quantize/nvfp4_place.cuh"

using namespace qm_nvfp4;

struct Head {
  int32_t m, n, padded_m, padded_n, scale_rows, in, layout, passes;
  float g;
};

template <class T, int kLayout>
void run(Head const& h, std::vector<unsigned char> const& raw, FILE* out) {
  T const* x = reinterpret_cast<T const*>(raw.data());
  int32_t const groups = h.padded_n / 16, real_quads = (groups + 3) / 4;
  int32_t const quads = kLayout == kRowMajor ? groups : real_quads;
  int quads_log = 0;
  while (quads_log < 3 && (1 << quads_log) < real_quads) ++quads_log;
  int const side = h.passes << quads_log;
  Divisor const across = divisor(kLayout == kRowMajor ? groups : (real_quads + side - 1) / side);
  int64_t programs;
  if (kLayout == kRowMajor) {
    programs = (int64_t(h.padded_m) * groups + kThreads * h.passes - 1) / (kThreads * h.passes);
  } else {
    int const rows = tile_rows(3 - quads_log);
    programs = int64_t((h.scale_rows + rows - 1) / rows) * across.by;
  }
  float g = h.g;
  if (g == 0.0f) {
    uint32_t most = 0;
    for (int64_t i = 0; i < int64_t(h.m) * h.n; ++i) {
      uint32_t const bits = as_bits(widened(x[i])) & kMagnitude;
      if (bits < kInfinity && bits > most) most = bits;
    }
    g = global_of(most);
  }
  float const inverse_global = 1.0f / g;
  int64_t const scale_columns = kLayout == kRowMajor ? groups : int64_t(real_quads) * 4;
  std::vector<uint8_t> data(size_t(h.padded_m) * groups * 8), scales(size_t(h.scale_rows) * scale_columns);
  std::vector<uint8_t> data_count(data.size()), scale_count(scales.size());
  for (int64_t program = 0; program < programs; ++program)
    for (int thread = 0; thread < kThreads; ++thread)
      for (int pass = 0; pass < h.passes; ++pass) {
        int32_t first;
        Place const at = place_of<kLayout>(int32_t(program), thread, pass, h.passes, across, quads_log, &first);
        uint32_t scale = 0;
        Codes codes{0, 0};
        if (first < h.m) {
          Block<T> block;
          bool const inside = at.row < h.m && at.group * 16 < h.n;
          if (inside) {
            int32_t const count = h.n - at.group * 16;
            T part[16] = {};
            for (int i = 0; i < 16 && i < count; ++i) part[i] = x[int64_t(at.row) * h.n + at.group * 16 + i];
            block.read(part, 1, count);
          } else {
            block.clear();
          }
          codes = quantized(block, inverse_global, &scale);
          if (!inside) scale = 0;
        } else if (at.row < h.m) {
          std::exit(3);  // a program without values would have left this row out
        }
        if (kLayout == kRowMajor ? at.row < h.padded_m : at.row < h.scale_rows && at.group < quads * 4) {
          int64_t const byte = scale_byte<kLayout>(at, quads);
          if (byte < 0 || byte >= int64_t(scales.size())) std::exit(4);
          scales[byte] = uint8_t(scale);
          ++scale_count[byte];
        }
        if (at.row < h.padded_m && at.group < groups)
          for (int i = 0; i < 8; ++i) {
            size_t const byte = (size_t(at.row) * groups + at.group) * 8 + i;
            data[byte] = uint8_t((i < 4 ? codes.low : codes.high) >> (8 * (i & 3)));
            ++data_count[byte];
          }
      }
  std::fwrite(&g, 4, 1, out);
  for (auto const* part : {&data, &scales, &data_count, &scale_count}) std::fwrite(part->data(), 1, part->size(), out);
}

template <class T>
void run_layout(Head const& h, std::vector<unsigned char> const& raw, FILE* out) {
  if (h.layout == 0) run<T, kRowMajor>(h, raw, out);
  if (h.layout == 1) run<T, kSwizzled128x4>(h, raw, out);
  if (h.layout == 2) run<T, kSwizzled8x4>(h, raw, out);
}

int main(int count, char** names) {
  if (count != 3) return 1;
  FILE* in = std::fopen(names[1], "rb");
  FILE* out = std::fopen(names[2], "wb");
  Head h;
  if (!in || !out || std::fread(&h, sizeof h, 1, in) != 1) return 2;
  std::vector<unsigned char> raw(size_t(h.m) * h.n * (h.in == 2 ? 4 : 2));
  if (std::fread(raw.data(), 1, raw.size(), in) != raw.size()) return 2;
  if (h.in == 0) run_layout<__nv_bfloat16>(h, raw, out);
  if (h.in == 1) run_layout<__half>(h, raw, out);
  if (h.in == 2) run_layout<float>(h, raw, out);
  std::fclose(in);
  return std::fclose(out);
}
