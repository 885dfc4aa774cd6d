// The losses of CAKD, forward and gradient in one pass over each row.
//
// Twins of cakd_mm/models/losses/functional.py, whose comments say why what is computed
// how. Elements and their sums are float32, what is made of those float64.

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr double kLn2 = 0.693147180559945309417232;
// Fewer elements than this are not worth waking other threads for.
constexpr int64_t kGrain = 1 << 15;

// 2^x of x <= 0 to 2e-7 of its value, 0 where that is no normal number. The series of
// exp(f ln 2) on |f| <= 1/2, times a power of two made from its bits.
inline float exp2_below(float x) {
  const float bounded = x < -126.f ? -126.f : x;  // keeps nan
  const float whole = std::floor(bounded + 0.5f);
  const float f = bounded - whole;
  float p = 1.5252734e-5f;
  p = p * f + 1.5403530e-4f;
  p = p * f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.f;
  // No integer is nan, which `p` carries on.
  const int32_t exponent = static_cast<int32_t>(whole == whole ? whole : 0.f);
  const int32_t bits = (exponent + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return x < -126.f ? 0.f : p * power;
}

// The probability of the first of two clusters and minus the log of the second's, from
// the log of their ratio.
struct Split {
  double first, cost;

  explicit Split(double odds) {
    const double small = std::exp(-std::fabs(odds));
    const double large = 1 / (1 + small);
    first = odds < 0 ? small * large : large;
    cost = std::log1p(small) + (odds > 0 ? odds : 0);
  }
};

inline double bounded(double odds) {
  constexpr double limit = FLT_MAX / 2;
  return odds > limit ? limit : odds < -limit ? -limit : odds;
}

inline float depth_of(float below) { return below < -FLT_MAX ? -FLT_MAX : below; }

// Rows of scratch memory, whole vectors long, so that no remainder runs in scalars
// (loops say blocks * kVector for the compiler to see it), and aligned to them: others
// cost twice as much.
constexpr int64_t kVector = 16;

template <typename T>
struct Scratch {
  int64_t length;
  std::vector<T> memory;
  T* start;

  Scratch(int64_t rows, int64_t n)
      : length((n + kVector - 1) / kVector * kVector),
        memory(rows * length + kVector) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    constexpr std::uintptr_t bytes = kVector * sizeof(T);
    start = memory.data() + (bytes - address % bytes) % bytes / sizeof(T);
  }

  T* row(int64_t index) { return start + index * length; }
};

// Copy a row; behind its end comes what weighs nothing.
inline void fill(float* to, const float* from, int64_t n, int64_t length) {
  std::memcpy(to, from, n * sizeof(float));
  for (int64_t i = n; i < length; ++i) to[i] = -FLT_MAX;
}

// By how much the probabilities weight * share add up to more than 1: `share` is rounded,
// which would swamp small divergences.
inline double drift(float total, float share) {
  return static_cast<double>(total) * share - 1;
}

// The others' total where none is above the least float, which has put the label and
// what lies behind the end level with them: these are taken away.
inline float without(float total, float* weight, int64_t label, int64_t n,
                     int64_t length) {
  float gone = weight[label];
  weight[label] = 0;
  for (int64_t i = n; i < length; ++i) gone += weight[i], weight[i] = 0;
  return n > 1 ? total - gone : 1;  // of no others, as of any empty cluster
}

}  // namespace

extern "C" {

// One label per row: mean of alpha * bcd + gamma * wcd, its gradient, and LabelTerms:
// log_total and cost are (2, rows), student first. Returns the first row with a label
// that is no class, -1 if all are.
int64_t cakd_single_label(const float* student, const float* teacher,
                          const int64_t* labels, int64_t rows, int64_t classes,
                          double tau, double alpha, double gamma, int64_t threads,
                          float* loss, float* grad, float* log_total, float* cost,
                          float* within, float* weak_mass) {
  for (int64_t r = 0; r < rows; ++r)
    if (labels[r] < 0 || labels[r] >= classes) return r;
  const float to_log2 = static_cast<float>(1 / (kLn2 * tau));
  const float ln2 = static_cast<float>(kLn2);
  const double mean = rows ? 1.0 / rows : 1.0;
  const float inside = static_cast<float>(gamma * mean / tau);
  std::vector<double> losses(rows);  // added up in the order of the rows
#pragma omp parallel num_threads(threads) if (rows * classes > kGrain)
  {
    Scratch<float> own(5, classes);
    float *depth_S = own.row(0), *depth_T = own.row(1), *weight_S = own.row(2);
    float *weight_T = own.row(3), *slope = own.row(4);
    const int64_t blocks = own.length / kVector;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t label = labels[r];
      fill(depth_S, student + r * classes, classes, own.length);
      fill(depth_T, teacher + r * classes, classes, own.length);
      const double own_S = depth_S[label], own_T = depth_T[label];
      depth_S[label] = depth_T[label] = -FLT_MAX;
      float peak_S = -FLT_MAX, peak_T = -FLT_MAX;
#pragma omp simd reduction(max : peak_S, peak_T)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        peak_S = depth_S[i] > peak_S ? depth_S[i] : peak_S;
        peak_T = depth_T[i] > peak_T ? depth_T[i] : peak_T;
      }
      float total_S = 0, total_T = 0;
#pragma omp simd reduction(+ : total_S, total_T)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        depth_S[i] = depth_of((depth_S[i] - peak_S) * to_log2);
        depth_T[i] = depth_of((depth_T[i] - peak_T) * to_log2);
        weight_S[i] = exp2_below(depth_S[i]);
        weight_T[i] = exp2_below(depth_T[i]);
        total_S += weight_S[i];
        total_T += weight_T[i];
      }
      if (peak_S == -FLT_MAX)
        total_S = without(total_S, weight_S, label, classes, own.length);
      if (peak_T == -FLT_MAX)
        total_T = without(total_T, weight_T, label, classes, own.length);
      const double log_S = std::log(static_cast<double>(total_S));
      const double log_T = std::log(static_cast<double>(total_T));
      const double odds_S = bounded(log_S + (peak_S - own_S) / tau);  // W to S
      const double odds_T = bounded(log_T + (peak_T - own_T) / tau);
      const Split of_S(odds_S), of_T(odds_T);
      // The student's exceeds the teacher's by BCD.
      const double cost_S = of_S.cost - of_T.first * odds_S;
      const double cost_T = of_T.cost - of_T.first * odds_T;
      const float share_S = 1 / total_S, share_T = 1 / total_T;
      const float between =
          static_cast<float>(alpha * mean / tau * (of_S.first - of_T.first));
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        const float q_S = weight_S[i] * share_S, q_T = weight_T[i] * share_T;
        const float excess = q_S - q_T;
        const float part = excess + q_T * (depth_T[i] - depth_S[i]) * ln2;
        sum += part;
        slope[i] = inside * excess + between * q_S;
      }
      slope[label] = -between;
      std::memcpy(grad + r * classes, slope, classes * sizeof(float));
      const double inner = sum - drift(total_S, share_S) + drift(total_T, share_T);
      losses[r] = alpha * (cost_S - cost_T) + gamma * (inner + (log_S - log_T));
      log_total[r] = static_cast<float>(log_S);
      log_total[rows + r] = static_cast<float>(log_T);
      cost[r] = static_cast<float>(cost_S);
      cost[rows + r] = static_cast<float>(cost_T);
      within[r] = static_cast<float>(inner);
      weak_mass[r] = static_cast<float>(of_T.first);
    }
  }
  double sum = 0;
  for (const double one : losses) sum += one;
  *loss = static_cast<float>(sum * mean);
  return -1;
}

// Any clusters: alpha * bcd + beta * scd + gamma * wcd of every row, its gradient, the
// terms and the teacher's mass of S. `strong` is 1 where an element is in S, else 0.
void cakd_clusters(const float* student, const float* teacher, const uint8_t* strong,
                   int64_t rows, int64_t classes, double tau, double alpha, double beta,
                   double gamma, int64_t threads, float* value, float* grad, float* bcd,
                   float* scd, float* wcd, float* mass) {
  const float to_log2 = static_cast<float>(1 / (kLn2 * tau));
  const float ln2 = static_cast<float>(kLn2);
  const float inside_S = static_cast<float>(beta / tau);
  const float inside_W = static_cast<float>(gamma / tau);
#pragma omp parallel num_threads(threads) if (rows * classes > kGrain)
  {
    Scratch<float> own(7, classes);
    float *depth_S = own.row(0), *depth_T = own.row(1), *weight_S = own.row(2);
    float *weight_T = own.row(3), *slope = own.row(4);
    float *in_S = own.row(5), *in_W = own.row(6);  // 1 for members, else 0
    const int64_t blocks = own.length / kVector;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      fill(depth_S, student + r * classes, classes, own.length);
      fill(depth_T, teacher + r * classes, classes, own.length);
      const uint8_t* is = strong + r * classes;
#pragma omp simd
      for (int64_t i = 0; i < classes; ++i) {
        in_S[i] = is[i];
        in_W[i] = 1 - is[i];
      }
      // Named after net and cluster.
      float peak_SS = -FLT_MAX, peak_SW = -FLT_MAX, peak_TS = -FLT_MAX,
            peak_TW = -FLT_MAX;
#pragma omp simd reduction(max : peak_SS, peak_SW, peak_TS, peak_TW)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        const bool here = in_S[i] > 0;
        const float S_in_S = here ? depth_S[i] : -FLT_MAX;
        const float S_in_W = here ? -FLT_MAX : depth_S[i];
        const float T_in_S = here ? depth_T[i] : -FLT_MAX;
        const float T_in_W = here ? -FLT_MAX : depth_T[i];
        peak_SS = S_in_S > peak_SS ? S_in_S : peak_SS;
        peak_SW = S_in_W > peak_SW ? S_in_W : peak_SW;
        peak_TS = T_in_S > peak_TS ? T_in_S : peak_TS;
        peak_TW = T_in_W > peak_TW ? T_in_W : peak_TW;
      }
      float total_SS = 0, total_SW = 0, total_TS = 0, total_TW = 0;
#pragma omp simd reduction(+ : total_SS, total_SW, total_TS, total_TW)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        const bool here = in_S[i] > 0;
        depth_S[i] = depth_of((depth_S[i] - (here ? peak_SS : peak_SW)) * to_log2);
        depth_T[i] = depth_of((depth_T[i] - (here ? peak_TS : peak_TW)) * to_log2);
        weight_S[i] = exp2_below(depth_S[i]);
        weight_T[i] = exp2_below(depth_T[i]);
        total_SS += weight_S[i] * in_S[i];
        total_SW += weight_S[i] * in_W[i];
        total_TS += weight_T[i] * in_S[i];
        total_TW += weight_T[i] * in_W[i];
      }
      // The peak weighs 1, so only a sum over no members is below that.
      total_SS = total_SS < 1 ? 1 : total_SS, total_SW = total_SW < 1 ? 1 : total_SW;
      total_TS = total_TS < 1 ? 1 : total_TS, total_TW = total_TW < 1 ? 1 : total_TW;
      const double log_SS = std::log(static_cast<double>(total_SS));
      const double log_SW = std::log(static_cast<double>(total_SW));
      const double log_TS = std::log(static_cast<double>(total_TS));
      const double log_TW = std::log(static_cast<double>(total_TW));
      const double gap_S = static_cast<double>(peak_SS) - peak_SW;
      const double gap_T = static_cast<double>(peak_TS) - peak_TW;
      const double odds_S = bounded(log_SS - log_SW + gap_S / tau);  // S to W
      const double odds_T = bounded(log_TS - log_TW + gap_T / tau);
      const Split of_S(odds_S), of_T(odds_T);
      const float share_SS = 1 / total_SS, share_SW = 1 / total_SW;
      const float share_TS = 1 / total_TS, share_TW = 1 / total_TW;
      const float between = static_cast<float>(alpha * (of_S.first - of_T.first) / tau);
      float sum_S = 0, sum_W = 0;
#pragma omp simd reduction(+ : sum_S, sum_W)
      for (int64_t i = 0; i < blocks * kVector; ++i) {
        const bool here = in_S[i] > 0;
        const float q_S = weight_S[i] * (here ? share_SS : share_SW);
        const float q_T = weight_T[i] * (here ? share_TS : share_TW);
        const float excess = q_S - q_T;
        const float part = excess + q_T * (depth_T[i] - depth_S[i]) * ln2;
        sum_S += part * in_S[i];
        sum_W += part * in_W[i];
        slope[i] = (here ? inside_S : inside_W) * excess +
                   (here ? between : -between) * q_S;
      }
      std::memcpy(grad + r * classes, slope, classes * sizeof(float));
      const double b = of_S.cost - of_T.cost + of_T.first * (odds_T - odds_S);
      const double over_S = drift(total_SS, share_SS) - drift(total_TS, share_TS);
      const double over_W = drift(total_SW, share_SW) - drift(total_TW, share_TW);
      const double s = sum_S - over_S + (log_SS - log_TS);
      const double w = sum_W - over_W + (log_SW - log_TW);
      value[r] = static_cast<float>(alpha * b + beta * s + gamma * w);
      bcd[r] = static_cast<float>(b);
      scd[r] = static_cast<float>(s);
      wcd[r] = static_cast<float>(w);
      mass[r] = static_cast<float>(of_T.first);
    }
  }
}

// Mark the `count` highest scores of every row with 1, all others with 0. Of equal ones
// the first are taken; nan counts as the highest.
void cakd_strongest(const float* scores, int64_t rows, int64_t elements, int64_t count,
                    int64_t threads, uint8_t* mask) {
#pragma omp parallel num_threads(threads) if (rows * elements > kGrain)
  {
    Scratch<int32_t> own(1, elements);
    int32_t* key = own.row(0);
    const int64_t blocks = own.length / kVector;
    // What lies behind the end is below any threshold.
    for (int64_t i = elements; i < own.length; ++i) key[i] = INT32_MIN;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(key, scores + r * elements, elements * sizeof(float));
      int32_t least = INT32_MAX, most = INT32_MIN;
      // Integers in the order of the floats, -0 equal to 0.
#pragma omp simd reduction(min : least) reduction(max : most)
      for (int64_t i = 0; i < elements; ++i) {
        const int32_t bits = key[i];
        const int32_t magnitude = bits & INT32_MAX;
        const int32_t order = bits < 0 ? -magnitude : magnitude;
        const int32_t value = magnitude > 0x7f800000 ? INT32_MAX : order;
        key[i] = value;
        least = value < least ? value : least;
        most = value > most ? value : most;
      }
      // The largest threshold that `count` of them reach, by halving.
      int64_t low = least, high = most;
      while (low < high) {
        const int32_t middle = static_cast<int32_t>(low + (high - low + 1) / 2);
        int32_t reached = 0;
#pragma omp simd reduction(+ : reached)
        for (int64_t i = 0; i < blocks * kVector; ++i) reached += key[i] >= middle;
        if (reached == count) {
          low = high = middle;
        } else if (reached > count) {
          low = middle;
        } else {
          high = middle - 1;
        }
      }
      const int32_t threshold = static_cast<int32_t>(low);
      // Elements equal to it fill up what those above it leave.
      uint8_t* out = mask + r * elements;
      int32_t above = 0;
#pragma omp simd reduction(+ : above)
      for (int64_t i = 0; i < elements; ++i) {
        out[i] = key[i] > threshold;
        above += key[i] > threshold;
      }
      int64_t left = count - above;
      for (int64_t i = 0; left > 0 && i < elements; ++i)
        if (key[i] == threshold) out[i] = 1, --left;
    }
  }
}

// Sums over all rows of the elements in S and of all others: two numbers.
void cakd_cluster_sums(const float* elements, const uint8_t* strong, int64_t rows,
                       int64_t length, int64_t threads, float* sums) {
  std::vector<double> in_S(rows), in_W(rows);  // added up in the order of the rows
#pragma omp parallel for num_threads(threads) schedule(static) \
    if (rows * length > kGrain)
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = elements + r * length;
    const uint8_t* is = strong + r * length;
    float sum_S = 0, sum_W = 0;
#pragma omp simd reduction(+ : sum_S, sum_W)
    for (int64_t i = 0; i < length; ++i) {
      sum_S += is[i] ? row[i] : 0.f;
      sum_W += is[i] ? 0.f : row[i];
    }
    in_S[r] = sum_S, in_W[r] = sum_W;
  }
  double sum_S = 0, sum_W = 0;
  for (int64_t r = 0; r < rows; ++r) sum_S += in_S[r], sum_W += in_W[r];
  sums[0] = static_cast<float>(sum_S), sums[1] = static_cast<float>(sum_W);
}

}  // extern "C"
