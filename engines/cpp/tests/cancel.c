/* cancel BUNDLE IMAGE.jpg: a thread that is to be cancelled opens, classifies and closes, all of which succeed, and
 * ends after that. */
#include <pthread.h>
#include <stdio.h>

#include "gne/gne.h"

static gne_status statuses[3] = {GNE_INTERNAL, GNE_INTERNAL, GNE_INTERNAL};

static void* work(void* arguments) {
  char** paths = arguments;
  gne_engine* engine = NULL;
  gne_prediction best;
  pthread_cancel(pthread_self()); /* it ends at the next function that may be cancelled, such as open and read */
  statuses[0] = gne_open(paths[1], NULL, &engine);
  statuses[1] = gne_classify_file(engine, paths[2], 1, &best);
  statuses[2] = gne_close(engine);
  pthread_testcancel();
  return NULL;
}

int main(int count, char** arguments) {
  pthread_t thread;
  void* result = NULL;
  if (count != 3 || pthread_create(&thread, NULL, work, arguments) != 0 || pthread_join(thread, &result) != 0) return 2;
  for (int i = 0; i < 3; ++i) puts(gne_status_name(statuses[i]));
  return result == PTHREAD_CANCELED ? 0 : 1;
}
