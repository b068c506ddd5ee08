// cores FILE...: how many cores may be used where each file is the quota of processor time.
#include <cstdio>

#include "processor.hpp"

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) std::printf("%zu\n", gne_sdk::usable_cores(arguments[i]));
}
