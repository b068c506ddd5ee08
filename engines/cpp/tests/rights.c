/* rights BUNDLE RUNTIME: whether this process has more rights than who started it, and what libgne says. */
#include <stdio.h>
#include <sys/auxv.h>

#include "gne/gne.h"

int main(int count, char** arguments) {
  gne_engine* engine = NULL;
  gne_options options = GNE_OPTIONS;
  if (count != 3) return 2;
  options.runtime = arguments[2];
  gne_open(arguments[1], &options, &engine);
  printf("%lu\n%s\n", getauxval(AT_SECURE), gne_last_error());
  return 0;
}
