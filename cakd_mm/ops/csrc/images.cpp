// Batches of images out of a set that is kept in memory.
//
// Twins of cakd_mm/datasets/batch_ops.py; pixels are equal to theirs bit for bit.

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Copy `count` pixels back to front.
template <int Channels>
void mirror(const uint8_t* from, int64_t count, uint8_t* to) {
  const uint8_t* last = from + (count - 1) * Channels;
#pragma omp simd
  for (int64_t x = 0; x < count; ++x)
    for (int c = 0; c < Channels; ++c)
      to[x * Channels + c] = last[c - x * Channels];
}

// Copy `count` pixels, back to front if `flip`.
void copy_pixels(const uint8_t* from, int64_t count, int64_t channels, bool flip,
                 uint8_t* to) {
  if (!flip) {
    std::memcpy(to, from, count * channels);
    return;
  }
  if (channels == 3) return mirror<3>(from, count, to);
  if (channels == 1) return mirror<1>(from, count, to);
  for (int64_t x = 0; x < count; ++x)
    std::memcpy(to + x * channels, from + (count - 1 - x) * channels, channels);
}

void fill_pixels(const uint8_t* fill, int64_t count, int64_t channels, uint8_t* to) {
  for (int64_t x = 0; x < count; ++x)
    for (int64_t c = 0; c < channels; ++c) to[x * channels + c] = fill[c];
}

int64_t between(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : x > high ? high : x;
}

}  // namespace

extern "C" {

// Windows (count, height_out, width_out, channels) of images picked by `places` from
// (total, height, width, channels): `top` and `left` say where in the image they begin,
// in padding where negative or beyond it, `flips` which are mirrored left to right.
// Returns the first whose place is no image, -1 if all are.
int64_t cakd_cut(const uint8_t* images, int64_t total, int64_t height, int64_t width,
                 int64_t channels, const int64_t* places, const int64_t* top,
                 const int64_t* left, const uint8_t* flips, int64_t count,
                 int64_t height_out, int64_t width_out, const uint8_t* fill,
                 uint8_t* out) {
  for (int64_t n = 0; n < count; ++n)
    if (places[n] < 0 || places[n] >= total) return n;
  for (int64_t n = 0; n < count; ++n) {
    const uint8_t* image = images + places[n] * height * width * channels;
    const bool flip = flips[n];
    const int64_t first = between(-left[n], 0, width_out);  // columns of padding
    const int64_t last = between(width - left[n], first, width_out);
    const int64_t before = flip ? width_out - last : first, inside = last - first;
    for (int64_t y = 0; y < height_out; ++y, out += width_out * channels) {
      const int64_t row = top[n] + y;
      if (row < 0 || row >= height) {
        fill_pixels(fill, width_out, channels, out);
        continue;
      }
      fill_pixels(fill, before, channels, out);
      copy_pixels(image + (row * width + left[n] + first) * channels, inside, channels,
                  flip, out + before * channels);
      fill_pixels(fill, width_out - before - inside, channels,
                  out + (before + inside) * channels);
    }
  }
  return -1;
}

// (pixel - mean) / std of rows of numbers, `mean` and `std` one row each; `reverse`
// turns the three channels of each pixel round before.
void cakd_normalize(const uint8_t* pixels, int64_t rows, int64_t length,
                    const float* mean, const float* std, int64_t reverse, float* out) {
  std::vector<uint8_t> turned(reverse ? length : 0);
  for (int64_t r = 0; r < rows; ++r, pixels += length, out += length) {
    const uint8_t* from = pixels;
    if (reverse) {
      uint8_t* to = turned.data();
#pragma omp simd
      for (int64_t i = 0; i < length / 3; ++i) {
        to[3 * i] = pixels[3 * i + 2];
        to[3 * i + 1] = pixels[3 * i + 1];
        to[3 * i + 2] = pixels[3 * i];
      }
      from = to;
    }
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) out[i] = (from[i] - mean[i]) / std[i];
  }
}

}  // extern "C"
