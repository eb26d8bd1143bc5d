// A complex FFT of any length.
//
// Lengths whose prime factors are small are done by mixed radices without reordering (Stockham); others by Bluestein's
// algorithm, as a convolution whose length is a power of two.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>
#include <utility>

namespace ingot {

struct Complex {
  double re, im;
};

inline Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
inline Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
inline Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
inline Complex Conjugate(Complex a) { return {a.re, -a.im}; }

// exp(-2 pi i k / n), with the angle reduced to an eighth of a turn so that multiples of it are exact.
inline Complex Root(int64_t k, int64_t n) {
  int64_t eighths = k % n * 8;
  const int64_t octant = eighths / n;
  eighths -= octant * n;
  const bool mirrored = octant % 2 != 0;
  const double angle =
      std::numbers::pi / 4 * (static_cast<double>(mirrored ? n - eighths : eighths) / static_cast<double>(n));
  double c = std::cos(angle);
  double s = std::sin(angle);
  if (((octant + 1) / 2) % 2 != 0) std::swap(c, s);
  const bool left = octant >= 2 && octant < 6;
  return {left ? -c : c, octant < 4 ? -s : s};
}

class Fft {
 public:
  // What a transform of length n needs.
  static int64_t TableSize(int64_t n) { return IsSmooth(n) ? n : 2 * Padded(n) + n; }
  static int64_t WorkSize(int64_t n) { return IsSmooth(n) ? n : 2 * Padded(n); }

  // Fills `table`, of TableSize(n), which has to outlive this.
  Fft(int64_t n, std::span<Complex> table) : n_(n), padded_(IsSmooth(n) ? n : Padded(n)), roots_(table.data()) {
    for (int64_t k = 0; k < padded_; ++k) roots_[k] = Root(k, padded_);
    if (padded_ == n_) return;
    chirp_ = roots_ + padded_;
    spectrum_ = chirp_ + n_;
    for (int64_t k = 0; k < n_; ++k) chirp_[k] = Root(Square(k), 2 * n_);
    for (int64_t k = 0; k < padded_; ++k) spectrum_[k] = {0, 0};
    for (int64_t k = 0; k < n_; ++k) {
      spectrum_[k] = Conjugate(chirp_[k]);
      if (k > 0) spectrum_[padded_ - k] = Conjugate(chirp_[k]);
    }
  }

  // The spectrum of the chirp, once; `work` is of WorkSize(n).
  void Prepare(Complex* work) {
    if (chirp_ != nullptr) Smooth(spectrum_, work);
  }

  // Transforms n numbers in place; the inverse is not divided by n. `work` is of WorkSize(n).
  void Run(Complex* x, bool inverse, Complex* work) const {
    if (inverse) Conjugated(x, n_);
    if (chirp_ == nullptr) {
      Smooth(x, work);
    } else {
      Complex* y = work + padded_;
      for (int64_t k = 0; k < padded_; ++k) y[k] = k < n_ ? x[k] * chirp_[k] : Complex{0, 0};
      Smooth(y, work);
      for (int64_t k = 0; k < padded_; ++k) y[k] = Conjugate(y[k] * spectrum_[k]);
      Smooth(y, work);
      const double scale = 1 / static_cast<double>(padded_);
      for (int64_t k = 0; k < n_; ++k) {
        const Complex value = Conjugate(y[k]) * chirp_[k];
        x[k] = {value.re * scale, value.im * scale};
      }
    }
    if (inverse) Conjugated(x, n_);
  }

 private:
  static constexpr int64_t kLargestRadix = 31;

  static bool IsSmooth(int64_t n) {
    for (int64_t p = 2; p <= kLargestRadix; ++p)
      while (n % p == 0) n /= p;
    return n == 1;
  }
  static int64_t Padded(int64_t n) {
    int64_t padded = 1;
    while (padded < 2 * n - 1) padded *= 2;
    return padded;
  }
  static void Conjugated(Complex* x, int64_t n) {
    for (int64_t k = 0; k < n; ++k) x[k].im = -x[k].im;
  }
  // k * k modulo 2 n, which does not overflow for lengths that fit memory.
  int64_t Square(int64_t k) const { return static_cast<int64_t>(static_cast<unsigned __int128>(k) * k % (2 * n_)); }

  static int64_t Radix(int64_t n) {
    if (n % 4 == 0) return 4;
    for (int64_t p = 2; p <= kLargestRadix; ++p)
      if (n % p == 0) return p;
    return n;
  }

  // A transform of padded_ numbers.
  void Smooth(Complex* x, Complex* work) const {
    Complex* from = x;
    Complex* to = work;
    int64_t length = padded_;
    for (int64_t stride = 1; length > 1;) {
      const int64_t radix = Radix(length);
      const int64_t part = length / radix;
      for (int64_t k = 0; k < part; ++k) {
        const Complex* in = from + stride * k;
        Complex* out = to + stride * radix * k;
        if (radix == 4) {
          Four(in, out, stride, part, k);
        } else {
          Any(in, out, stride, part, k, radix);
        }
      }
      std::swap(from, to);
      length = part;
      stride *= radix;
    }
    if (from != x)
      for (int64_t k = 0; k < padded_; ++k) x[k] = from[k];
  }

  void Four(const Complex* in, Complex* out, int64_t stride, int64_t part, int64_t k) const {
    const Complex w1 = roots_[k * stride];
    const Complex w2 = roots_[2 * k * stride];
    const Complex w3 = roots_[3 * k * stride];
    for (int64_t q = 0; q < stride; ++q) {
      const Complex a = in[q];
      const Complex b = in[q + stride * part];
      const Complex c = in[q + stride * part * 2];
      const Complex d = in[q + stride * part * 3];
      const Complex even = a + c;
      const Complex odd = a - c;
      const Complex sum = b + d;
      const Complex turned = {b.im - d.im, d.re - b.re};  // (b - d) times -i
      out[q] = even + sum;
      out[q + stride] = (odd + turned) * w1;
      out[q + stride * 2] = (even - sum) * w2;
      out[q + stride * 3] = (odd - turned) * w3;
    }
  }

  void Any(const Complex* in, Complex* out, int64_t stride, int64_t part, int64_t k, int64_t radix) const {
    const int64_t step = padded_ / radix;
    for (int64_t r = 0; r < radix; ++r) {
      const Complex twiddle = roots_[k * r * stride];
      for (int64_t q = 0; q < stride; ++q) {
        Complex sum = in[q];
        for (int64_t j = 1, turn = 0; j < radix; ++j) {
          turn += r;
          if (turn >= radix) turn -= radix;
          sum = sum + in[q + stride * part * j] * roots_[turn * step];
        }
        out[q + stride * r] = sum * twiddle;
      }
    }
  }

  int64_t n_;
  int64_t padded_;
  Complex* roots_;
  Complex* chirp_ = nullptr;
  Complex* spectrum_ = nullptr;
};

}  // namespace ingot
