// A TensorFlow operation that resizes RGB bytes to a square in one pass over the image.
//
// What it makes, to the bit:
//   "big_vision": tf.raw_ops.ResizeBilinear(half_pixel_centers=True), cut to uint8.
//   "bicubic", "bilinear": PIL.Image.resize((size, size), BICUBIC or BILINEAR) of Pillow 13.
//
// Source: Pillow 13 libImaging/Resample.c (weights of 22 bits, both passes rounded and clipped to bytes, the order of the
// passes); TensorFlow's resize_bilinear_op.cc (where it samples, and in which order it interpolates).
//
// Only TensorFlow's C interface is used, so one translation unit of C11 is the whole build; see fused_resize.py. Compile
// with -ffp-contract=off: a fused multiply-add would round otherwise than TensorFlow does; with -march=native, for its AVX2.

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// The headers use these names as C++ does.
typedef struct TF_OpDefinitionBuilder TF_OpDefinitionBuilder;
typedef struct TF_ShapeInferenceContext TF_ShapeInferenceContext;
typedef struct TF_ShapeHandle TF_ShapeHandle;
typedef struct TF_DimensionHandle TF_DimensionHandle;

#include "tensorflow/c/kernels.h"
#include "tensorflow/c/ops.h"
#include "tensorflow/c/tf_status.h"
#include "tensorflow/c/tf_tensor.h"

#if !defined(__AVX2__)
#error "this needs a processor with AVX2"
#endif
#include <immintrin.h>

enum { CHANNELS = 3, WEIGHT_BITS = 22, LOW_BITS = 8, BLOCK = 16, OVERRUN = 16, LANES = 4, CACHE_LINE = 64 };

typedef enum { BIG_VISION, BICUBIC, BILINEAR } Method;

typedef struct {
  int size;
  Method method;
} Resize;

// ---- Filters with antialias ----

// Which inputs an output sees, and how much of each. A weight of 22 bits is kept as high * 256 + low, both of which fit
// the 16 bits that `madd` multiplies, two taps at a time: their two high parts, then their two low ones.
typedef struct {
  int count;         // Outputs.
  int pairs;         // Pairs of taps an output, at most.
  int* first;        // (count,) the first input of each.
  int* taps;         // (count,) how many it sees.
  int16_t* weights;  // (count, pairs, 4); a tap too many weighs nothing.
} Filter;

static double cubic(double x) {
  const double a = -0.5;
  x = fabs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

static double triangle(double x) {
  x = fabs(x);
  return x < 1 ? 1 - x : 0;
}

static void free_filter(Filter* filter) {
  free(filter->first);
  free(filter->taps);
  free(filter->weights);
}

static bool make_filter(Filter* filter, Method method, int inputs, int outputs) {
  double (*kernel)(double) = method == BICUBIC ? cubic : triangle;
  const double scale = (double)inputs / outputs;
  const double stretch = scale < 1 ? 1 : scale;
  const double support = (method == BICUBIC ? 2.0 : 1.0) * stretch;
  const int most = (int)ceil(support) * 2 + 1;
  filter->count = outputs;
  filter->pairs = (most + 1) / 2;
  filter->first = malloc(sizeof(int) * outputs);
  filter->taps = malloc(sizeof(int) * outputs);
  filter->weights = calloc((size_t)outputs * filter->pairs * 4, sizeof(int16_t));
  double* values = malloc(sizeof(double) * most);
  const bool enough = filter->first && filter->taps && filter->weights && values;
  for (int i = 0; enough && i < outputs; ++i) {
    const double center = (i + 0.5) * scale;
    int first = (int)(center - support + 0.5);
    int last = (int)(center + support + 0.5);
    if (first < 0) first = 0;
    if (last > inputs) last = inputs;
    double sum = 0;
    for (int k = 0; k < last - first; ++k) {
      values[k] = kernel((k + first - center + 0.5) * (1.0 / stretch));
      sum += values[k];
    }
    int16_t* weights = filter->weights + (size_t)i * filter->pairs * 4;
    for (int k = 0; k < last - first; ++k) {
      if (sum != 0) values[k] /= sum;
      const double scaled = values[k] * (1 << WEIGHT_BITS);
      const int weight = (int)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
      weights[k / 2 * 4 + k % 2] = (int16_t)(weight >> LOW_BITS);
      weights[k / 2 * 4 + 2 + k % 2] = (int16_t)(weight & ((1 << LOW_BITS) - 1));
    }
    filter->first[i] = first;
    filter->taps[i] = last - first;
  }
  free(values);
  return enough;
}

// Sums of sixteen columns: four of either half of eight in each, the lower four first.
typedef struct {
  __m256i first, second;
} Sums;

static inline Sums add_pair(Sums sums, const uint8_t* a, const uint8_t* b, __m256i high, __m256i low) {
  const __m256i above = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)a));
  const __m256i below = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)b));
  const __m256i first = _mm256_unpacklo_epi16(above, below), second = _mm256_unpackhi_epi16(above, below);
  sums.first = _mm256_add_epi32(sums.first, _mm256_slli_epi32(_mm256_madd_epi16(first, high), LOW_BITS));
  sums.second = _mm256_add_epi32(sums.second, _mm256_slli_epi32(_mm256_madd_epi16(second, high), LOW_BITS));
  sums.first = _mm256_add_epi32(sums.first, _mm256_madd_epi16(first, low));
  sums.second = _mm256_add_epi32(sums.second, _mm256_madd_epi16(second, low));
  return sums;
}

static inline void store(Sums sums, uint8_t* out) {
  const __m256i first = _mm256_srai_epi32(sums.first, WEIGHT_BITS), second = _mm256_srai_epi32(sums.second, WEIGHT_BITS);
  const __m256i words = _mm256_packs_epi32(first, second);
  const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)out, bytes);
}

static inline __m256i two_weights(const int16_t* weights) {
  int32_t both;
  memcpy(&both, weights, sizeof(both));
  return _mm256_set1_epi32(both);
}

// `bytes`, a multiple of BLOCK, of the rows that output `i` sees to the one row that they make. Three blocks at a time, so
// that weights are read once for them.
static void weigh_row(const uint8_t* rows, size_t stride, const Filter* filter, int i, int bytes, uint8_t* out) {
  rows += filter->first[i] * stride;
  const int16_t* weights = filter->weights + (size_t)i * filter->pairs * 4;
  const int taps = filter->taps[i];
  const __m256i half = _mm256_set1_epi32(1 << (WEIGHT_BITS - 1));
  int x = 0;
  for (; x + 3 * BLOCK <= bytes; x += 3 * BLOCK) {
    Sums a = {half, half}, b = a, c = a;
    const uint8_t* row = rows + x;
    for (int k = 0; k < taps; k += 2, row += 2 * stride) {
      const uint8_t* next = k + 1 < taps ? row + stride : row;  // Weighs nothing.
      const __m256i high = two_weights(weights + 2 * k), low = two_weights(weights + 2 * k + 2);
      a = add_pair(a, row, next, high, low);
      b = add_pair(b, row + BLOCK, next + BLOCK, high, low);
      c = add_pair(c, row + 2 * BLOCK, next + 2 * BLOCK, high, low);
    }
    store(a, out + x);
    store(b, out + x + BLOCK);
    store(c, out + x + 2 * BLOCK);
  }
  for (; x < bytes; x += BLOCK) {
    Sums a = {half, half};
    const uint8_t* row = rows + x;
    for (int k = 0; k < taps; k += 2, row += 2 * stride) {
      const uint8_t* next = k + 1 < taps ? row + stride : row;
      a = add_pair(a, row, next, two_weights(weights + 2 * k), two_weights(weights + 2 * k + 2));
    }
    store(a, out + x);
  }
}

// Squares of sixteen by sixteen bytes, `step` bytes apart in the rows that they lie in, to their transposed, `out_step`
// bytes apart, in rows `out_stride` apart. Two at a time; four rounds each interleave the rows of the upper half with
// those of the lower one.
static void transpose(const uint8_t* const rows[BLOCK], int squares, size_t step, uint8_t* out, size_t out_step,
                      size_t out_stride) {
  for (int i = 0; i < squares; i += 2) {
    const size_t next = i + 1 < squares ? i + 1 : i;
    __m256i from[BLOCK], to[BLOCK];
#pragma GCC unroll 16
    for (int y = 0; y < BLOCK; ++y) {
      from[y] = _mm256_loadu2_m128i((const __m128i*)(rows[y] + next * step), (const __m128i*)(rows[y] + i * step));
    }
#pragma GCC unroll 4
    for (int round = 0; round < 4; ++round) {
#pragma GCC unroll 8
      for (int y = 0; y < BLOCK / 2; ++y) {
        to[2 * y] = _mm256_unpacklo_epi8(from[y], from[y + BLOCK / 2]);
        to[2 * y + 1] = _mm256_unpackhi_epi8(from[y], from[y + BLOCK / 2]);
      }
#pragma GCC unroll 16
      for (int y = 0; y < BLOCK; ++y) from[y] = to[y];
    }
#pragma GCC unroll 16
    for (int x = 0; x < BLOCK; ++x) {
      uint8_t* row = out + x * out_stride;
      _mm256_storeu2_m128i((__m128i*)(row + next * out_step), (__m128i*)(row + i * out_step), from[x]);
    }
  }
}

static size_t whole_blocks(size_t bytes) { return (bytes + BLOCK - 1) / BLOCK * BLOCK; }

// Sixteen rows from `begin` on, in so far as there are as many, to rows of filter->count pixels `out_stride` bytes
// apart. They are transposed, so that what lies side by side is weighed alike, and transposed again.
// `columns` holds whole_blocks(3 * width) * BLOCK bytes, `narrow` 3 * filter->count of them in whole blocks.
static void narrow_rows(const uint8_t* image, int height, int width, int begin, const Filter* filter, uint8_t* columns,
                        uint8_t* narrow, uint8_t* out, size_t out_stride) {
  const size_t stride = (size_t)CHANNELS * width;
  const int pixel = CHANNELS * BLOCK, squares = (int)(stride / BLOCK), rest = (int)(stride % BLOCK);
  const uint8_t *rows[BLOCK], *ends[BLOCK], *narrowed[BLOCK];
  uint8_t end[BLOCK][BLOCK] = {{0}};
  for (int y = 0; y < BLOCK; ++y) {
    rows[y] = image + (begin + y < height ? begin + y : height - 1) * stride;
    ends[y] = memcpy(end[y], rows[y] + stride - rest, rest);
    narrowed[y] = narrow + y * BLOCK;
  }
  const size_t square = BLOCK * BLOCK;
  transpose(rows, squares, BLOCK, columns, square, BLOCK);
  if (rest) transpose(ends, 1, 0, columns + squares * square, 0, BLOCK);
  // What a decoder wrote lies too far away to be waited for: the next rows are fetched meanwhile.
  const size_t ahead = begin + 2 * BLOCK <= height ? BLOCK * stride / filter->count + 1 : 0;
  const uint8_t* next = image + (begin + BLOCK) * stride;
  for (int x = 0; x < filter->count; ++x) {
    for (size_t at = 0; at < ahead; at += CACHE_LINE) __builtin_prefetch(next + x * ahead + at);
    weigh_row(columns, pixel, filter, x, pixel, narrow + (size_t)x * pixel);
  }
  transpose(narrowed, (int)(out_stride / BLOCK), square, out, BLOCK, out_stride);
}

static bool resize_as_pillow(const uint8_t* image, int height, int width, int size, Method method, uint8_t* out) {
  const int shrinks = height - size;
  const bool height_first = shrinks > 0 && shrinks > 2 * (width - size);
  const size_t out_row = (size_t)CHANNELS * size, row = (size_t)CHANNELS * width;
  const size_t out_stride = whole_blocks(out_row), stride = whole_blocks(row);
  const size_t rows = whole_blocks(height_first ? size : height);
  Filter across = {0}, down = {0};
  uint8_t* columns = malloc((stride + BLOCK) * BLOCK);
  uint8_t* narrow = malloc(out_stride * BLOCK);
  uint8_t* between = malloc(rows * out_stride);
  uint8_t* line = malloc(stride > out_stride ? stride : out_stride);
  uint8_t* short_image = height_first ? malloc((size_t)size * row) : NULL;
  uint8_t* padded = height_first ? malloc((size_t)height * stride) : NULL;
  bool enough = columns && narrow && between && line && (!height_first || (short_image && padded));
  enough = make_filter(&across, method, width, size) && enough;
  enough = make_filter(&down, method, height, size) && enough;
  if (enough && height_first) {  // An image so tall is rare: it may cost two copies.
    for (int y = 0; y < height; ++y) memcpy(padded + y * stride, image + y * row, row);
    for (int y = 0; y < size; ++y) {
      weigh_row(padded, stride, &down, y, (int)stride, line);
      memcpy(short_image + y * row, line, row);
    }
    for (int y = 0; y < size; y += BLOCK) {
      narrow_rows(short_image, size, width, y, &across, columns, narrow, between + y * out_stride, out_stride);
    }
    for (int y = 0; y < size; ++y) memcpy(out + y * out_row, between + y * out_stride, out_row);
  } else if (enough) {
    int ready = 0;  // Rows are narrowed as they are needed, while the ones before are still in the cache.
    for (int y = 0; y < size; ++y) {
      for (; ready < down.first[y] + down.taps[y]; ready += BLOCK) {
        uint8_t* to = between + ready * out_stride;
        narrow_rows(image, height, width, ready, &across, columns, narrow, to, out_stride);
      }
      weigh_row(between, out_stride, &down, y, (int)out_stride, line);
      memcpy(out + y * out_row, line, out_row);
    }
  }
  free(columns);
  free(narrow);
  free(between);
  free(line);
  free(short_image);
  free(padded);
  free_filter(&across);
  free_filter(&down);
  return enough;
}

// ---- Bilinear without antialias ----

// Where each output lies between two inputs.
typedef struct {
  int* lower;
  int* upper;
  float* part;  // Of the way from the lower to the upper one, four times each.
} Samples;

static void free_samples(Samples* samples) {
  free(samples->lower);
  free(samples->upper);
  free(samples->part);
}

// `unit` bytes lie between two inputs.
static bool make_samples(Samples* samples, int inputs, int outputs, int unit) {
  samples->lower = malloc(sizeof(int) * outputs);
  samples->upper = malloc(sizeof(int) * outputs);
  samples->part = malloc(sizeof(float) * LANES * outputs);
  if (!samples->lower || !samples->upper || !samples->part) return false;
  const float scale = inputs / (float)outputs;
  for (int i = 0; i < outputs; ++i) {
    const float at = ((float)i + 0.5f) * scale - 0.5f;
    const float floor_at = floorf(at), ceil_at = ceilf(at);
    samples->lower[i] = unit * (floor_at > 0 ? (int)floor_at : 0);
    samples->upper[i] = unit * (ceil_at < inputs - 1 ? (int)ceil_at : inputs - 1);
    for (int lane = 0; lane < LANES; ++lane) samples->part[LANES * i + lane] = at - floor_at;
  }
  return true;
}

static inline float between(float from, float to, float part) { return from + (to - from) * part; }

static void interpolate_row(const uint8_t* top, const uint8_t* bottom, float part, const Samples* columns, int begin,
                            int end, uint8_t* out) {
  for (int x = begin; x < end; ++x) {
    const int left = columns->lower[x], right = columns->upper[x];
    for (int c = 0; c < CHANNELS; ++c) {
      const float above = between(top[left + c], top[right + c], columns->part[LANES * x]);
      const float below = between(bottom[left + c], bottom[right + c], columns->part[LANES * x]);
      out[CHANNELS * x + c] = (uint8_t)between(above, below, part);
    }
  }
}

static inline __m256 between_eight(__m256 from, __m256 to, __m256 part) {
  return _mm256_add_ps(from, _mm256_mul_ps(_mm256_sub_ps(to, from), part));
}

// Interpolates across between each of two pixels, `offsets` bytes from `row`, and the one beside it.
static inline __m256 across_two(const uint8_t* row, const int* offsets, __m256 part) {
  const char z = -128;  // Shuffles in a zero: bytes become int32.
  const __m256i left = _mm256_setr_epi8(0, z, z, z, 1, z, z, z, 2, z, z, z, z, z, z, z,  //
                                        0, z, z, z, 1, z, z, z, 2, z, z, z, z, z, z, z);
  const __m256i right = _mm256_setr_epi8(3, z, z, z, 4, z, z, z, 5, z, z, z, z, z, z, z,  //
                                         3, z, z, z, 4, z, z, z, 5, z, z, z, z, z, z, z);
  const __m256i both = _mm256_loadu2_m128i((const __m128i*)(row + offsets[1]), (const __m128i*)(row + offsets[0]));
  return between_eight(_mm256_cvtepi32_ps(_mm256_shuffle_epi8(both, left)),
                      _mm256_cvtepi32_ps(_mm256_shuffle_epi8(both, right)), part);
}

static inline __m256i interpolate_two(const uint8_t* top, const uint8_t* bottom, __m256 down, const int* offsets,
                                           const float* part) {
  const __m256 right = _mm256_loadu_ps(part);
  return _mm256_cvttps_epi32(between_eight(across_two(top, offsets, right), across_two(bottom, offsets, right), down));
}

// Columns whose two inputs lie side by side, or whose part is zero. Reads up to OVERRUN bytes beyond either row's end.
// Meanwhile the two rows at `ahead` are fetched: what a decoder wrote lies too far away to be waited for.
static void interpolate_columns(const uint8_t* top, const uint8_t* bottom, float part, const Samples* columns,
                                      int begin, int end, const uint8_t* ahead, size_t stride, uint8_t* out) {
  const char z = -128;
  // Packing leaves pixels in the order 0, 2, 1, 3, four bytes each.
  const __m128i in_order = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, z, z, z, z);
  const __m256 down = _mm256_set1_ps(part);
  int x = begin;
  for (; x + 4 <= end; x += 4) {
    const int* offsets = columns->lower + x;
    const float* parts = columns->part + LANES * x;
    __builtin_prefetch(ahead + offsets[0]);
    __builtin_prefetch(ahead + stride + offsets[0]);
    const __m256i words = _mm256_packs_epi32(interpolate_two(top, bottom, down, offsets, parts),
                                             interpolate_two(top, bottom, down, offsets + 2, parts + 2 * LANES));
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    const __m128i pixels = _mm_shuffle_epi8(bytes, in_order);
    uint8_t* to = out + CHANNELS * x;
    if (x + 6 <= end) {
      _mm_storeu_si128((__m128i*)to, pixels);  // The last four bytes are the next pixels', which come next.
    } else {
      uint8_t spare[16];
      _mm_storeu_si128((__m128i*)spare, pixels);
      memcpy(to, spare, 4 * CHANNELS);
    }
  }
  interpolate_row(top, bottom, part, columns, x, end, out);
}

static bool resize_as_big_vision(const uint8_t* image, int height, int width, int size, uint8_t* out) {
  const size_t stride = (size_t)CHANNELS * width;
  Samples columns = {0}, rows = {0};
  uint8_t* last = calloc(1, stride + OVERRUN);
  bool enough = make_samples(&columns, width, size, CHANNELS) && last;
  enough = make_samples(&rows, height, size, 1) && enough;
  if (enough) {
    memcpy(last, image + (height - 1) * stride, stride);
    // From `begin` to `end` a column's right input is the left one's neighbour, and that lies inside the image.
    int begin = 0, end = size;
    while (begin < size && columns.lower[begin] == columns.upper[begin] && columns.part[LANES * begin] != 0) ++begin;
    while (end > begin && columns.lower[end - 1] == CHANNELS * (width - 1)) --end;
    for (int y = 0; y < size; ++y) {
      const uint8_t* top = rows.lower[y] == height - 1 ? last : image + rows.lower[y] * stride;
      const uint8_t* bottom = rows.upper[y] == height - 1 ? last : image + rows.upper[y] * stride;
      uint8_t* to = out + (size_t)y * CHANNELS * size;
      if (stride >= OVERRUN) {
        interpolate_row(top, bottom, rows.part[LANES * y], &columns, 0, begin, to);
        const uint8_t* ahead = image + rows.lower[y + 1 < size ? y + 1 : y] * stride;
        interpolate_columns(top, bottom, rows.part[LANES * y], &columns, begin, end, ahead, stride, to);
        interpolate_row(top, bottom, rows.part[LANES * y], &columns, end, size, to);
      } else {
        interpolate_row(top, bottom, rows.part[LANES * y], &columns, 0, size, to);
      }
    }
  }
  free(last);
  free_samples(&columns);
  free_samples(&rows);
  return enough;
}

// ---- The operation ----

static void* create(TF_OpKernelConstruction* construction) {
  TF_Status* status = TF_NewStatus();
  Resize* resize = malloc(sizeof(Resize));
  int64_t size = 0, method = 0;
  TF_OpKernelConstruction_GetAttrInt64(construction, "size", &size, status);
  if (TF_GetCode(status) == TF_OK) TF_OpKernelConstruction_GetAttrInt64(construction, "method", &method, status);
  if (TF_GetCode(status) == TF_OK && (size < 1 || size > 1 << 14 || method < BIG_VISION || method > BILINEAR)) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "size must lie between 1 and 16384, method between 0 and 2.");
  }
  if (TF_GetCode(status) != TF_OK) TF_OpKernelConstruction_Failure(construction, status);
  TF_DeleteStatus(status);
  resize->size = (int)size;
  resize->method = (Method)method;
  return resize;
}

static void compute(void* kernel, TF_OpKernelContext* context) {
  const Resize* resize = kernel;
  TF_Status* status = TF_NewStatus();
  TF_Tensor *image = NULL, *out = NULL;
  TF_GetInput(context, 0, &image, status);
  const bool is_image = TF_GetCode(status) == TF_OK && TF_NumDims(image) == 3 && TF_Dim(image, 2) == CHANNELS;
  const int64_t height = is_image ? TF_Dim(image, 0) : 0, width = is_image ? TF_Dim(image, 1) : 0;
  if (height < 1 || width < 1 || height > 1 << 26 || width > 1 << 26) {
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "Expected an image of (height, width, 3) bytes, no side empty.");
  } else {
    const int64_t shape[3] = {resize->size, resize->size, CHANNELS};
    const size_t bytes = (size_t)resize->size * resize->size * CHANNELS;
    out = TF_AllocateOutput(context, 0, TF_UINT8, shape, 3, bytes, status);
  }
  if (TF_GetCode(status) == TF_OK) {
    const uint8_t* from = TF_TensorData(image);
    uint8_t* to = TF_TensorData(out);
    const bool enough = resize->method == BIG_VISION
                            ? resize_as_big_vision(from, (int)height, (int)width, resize->size, to)
                            : resize_as_pillow(from, (int)height, (int)width, resize->size, resize->method, to);
    if (!enough) TF_SetStatus(status, TF_RESOURCE_EXHAUSTED, "No memory left to resize an image.");
  }
  if (TF_GetCode(status) != TF_OK) TF_OpKernelContext_Failure(context, status);
  if (image) TF_DeleteTensor(image);
  if (out) TF_DeleteTensor(out);
  TF_DeleteStatus(status);
}

static void unknown_shape(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
}

__attribute__((constructor)) static void register_operation(void) {
  TF_Status* status = TF_NewStatus();
  TF_OpDefinitionBuilder* operation = TF_NewOpDefinitionBuilder("SiglipTf>FusedResize");
  TF_OpDefinitionBuilderAddInput(operation, "image: uint8");
  TF_OpDefinitionBuilderAddOutput(operation, "resized: uint8");
  TF_OpDefinitionBuilderAddAttr(operation, "size: int >= 1");
  TF_OpDefinitionBuilderAddAttr(operation, "method: int >= 0");
  TF_OpDefinitionBuilderSetShapeInferenceFunction(operation, unknown_shape);
  TF_RegisterOpDefinition(operation, status);
  if (TF_GetCode(status) == TF_OK) {
    TF_KernelBuilder* builder = TF_NewKernelBuilder("SiglipTf>FusedResize", "CPU", create, compute, free);
    TF_RegisterKernelBuilder("FusedResize", builder, status);
  }
  TF_DeleteStatus(status);
}
