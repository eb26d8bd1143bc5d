/* The median time of set_input, run and output on a model without steps: what the C API itself costs. Usage: overhead
 * MODEL.ingot */
#include <ingot/ingot.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kRuns = 20000 };

static double microseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

static int by_value(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  ingot_model* model = NULL;
  ingot_session* session = NULL;
  if (argc != 2 || ingot_model_load(argv[1], NULL, &model) != INGOT_OK ||
      ingot_session_create(model, &session) != INGOT_OK) {
    fprintf(stderr, "%s\n", argc == 2 ? ingot_last_error() : "usage: overhead MODEL.ingot");
    return 1;
  }
  float element = 0;
  int64_t extent = 1;
  const DLTensor input = {&element, {kDLCPU, 0}, 1, {kDLFloat, 32, 1}, &extent, NULL, 0};
  const DLTensor* output = NULL;
  static double times[kRuns];
  for (int i = 0; i < kRuns; ++i) {
    const double start = microseconds();
    if (ingot_session_set_input(session, 0, &input) != INGOT_OK || ingot_session_run(session) != INGOT_OK ||
        ingot_session_output(session, 0, &output) != INGOT_OK) {
      fprintf(stderr, "%s\n", ingot_last_error());
      return 1;
    }
    times[i] = microseconds() - start;
  }
  qsort(times, kRuns, sizeof times[0], by_value);
  printf("%.3f\n", times[kRuns / 2]);
  ingot_session_free(session);
  ingot_model_free(model);
  return 0;
}
