// The generated functions of tests/runtime/assemble_cuda.py for a real GPU: parameters are addresses and 64-bit
// integers.
#define ELEMENT long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x

extern "C" __global__ void scale_kernel(const float* x, float* y, long long n) {
  ELEMENT;
  if (i < n) y[i] = 2 * x[i];
}

extern "C" __global__ void add_kernel(const float* a, const float* b, float* y, long long n) {
  ELEMENT;
  if (i < n) y[i] = a[i] + b[i];
}

extern "C" __global__ void square_kernel(const float* x, float* t, float* y, long long n) {
  ELEMENT;
  if (i < n) t[i] = x[i] * x[i];
}

extern "C" __global__ void sum_kernel(const float* x, const float* t, float* y, long long n) {
  ELEMENT;
  if (i != 0) return;
  float sum = 0;
  for (long long k = 0; k < n; ++k) sum += t[k];
  *y = sum;
}

extern "C" __global__ void less_kernel(const float* x, bool* y) {
  if (threadIdx.x == 0) *y = *x < 10;
}

extern "C" __global__ void count_kernel(const long long* length, const long long* count, long long* y, long long n) {
  ELEMENT;
  if (i < n) y[i] = length[i] + count[i];
}

struct Fault {  // DeviceFault of runtime/src/fault.h
  unsigned long long step;
  long long kind, values[4];
};

extern "C" __global__ void checked_kernel(const long long* x, float* y, long long n, Fault* fault,
                                          unsigned long long step) {
  ELEMENT;
  if (i >= n) return;
  y[i] = (float)x[i];
  if (x[i] >= 0 && x[i] < 100) return;
  if (atomicCAS(&fault->step, 0ull, step) != 0) return;
  fault->kind = 0;
  fault->values[0] = x[i];
  fault->values[1] = 100;
}

extern "C" __global__ void gather_kernel(const long long* indices, float* y, long long n) {
  ELEMENT;
  if (i < n) y[i] = (float)indices[i];
}
