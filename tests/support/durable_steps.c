// Preloaded into a program (LD_PRELOAD), counts the calls by which it makes something durable,
// takes something away or puts it in its place: fsync, fdatasync, rename, unlink.
//
//   QUANTFL_STEPS_LOG=FILE   a line for each before it is made: its number, its name and the file's
//   QUANTFL_STEPS_KILL=N     SIGKILL in the place of the N-th
//   QUANTFL_STEPS_FAIL=FILE:N  the N-th of those of files with that name fails with EIO, and what it was to keep is as
//                            it is: which number it has among all steps is another one in each run
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long steps, steps_of_failing;

static long Number(const char* name) {
  const char* text = getenv(name);
  return text == NULL ? 0 : atol(text);
}

static void Log(long step, const char* call, const char* path) {
  const char* file = getenv("QUANTFL_STEPS_LOG");
  if (file == NULL) return;
  const char* slash = strrchr(path, '/');
  char line[4200];
  const int size =
      snprintf(line, sizeof line, "%ld %s %s\n", step, call, slash == NULL ? path : slash + 1);
  const int fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (fd < 0) return;
  if (write(fd, line, (size_t)size) != size) abort();
  close(fd);
}

static int Fails(const char* path) {
  const char* which = getenv("QUANTFL_STEPS_FAIL");
  const char* colon = which == NULL ? NULL : strrchr(which, ':');
  if (colon == NULL) return 0;
  const char* slash = strrchr(path, '/');
  const char* name = slash == NULL ? path : slash + 1;
  const size_t size = (size_t)(colon - which);
  if (strlen(name) != size || memcmp(name, which, size) != 0) return 0;
  return atomic_fetch_add(&steps_of_failing, 1) + 1 == atol(colon + 1);
}

// Whether the step is to be made.
static int Step(const char* call, const char* path) {
  const long step = atomic_fetch_add(&steps, 1) + 1;
  Log(step, call, path);
  if (step == Number("QUANTFL_STEPS_KILL")) kill(getpid(), SIGKILL);
  if (!Fails(path)) return 1;
  errno = EIO;
  return 0;
}

static int StepOf(const char* call, int fd) {
  char link[64], path[4097];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  path[size < 0 ? 0 : size] = '\0';
  return Step(call, path);
}

static void* Next(const char* name) { return dlsym(RTLD_NEXT, name); }

int fsync(int fd) { return StepOf("fsync", fd) ? ((int (*)(int))Next("fsync"))(fd) : -1; }
int fdatasync(int fd) {
  return StepOf("fdatasync", fd) ? ((int (*)(int))Next("fdatasync"))(fd) : -1;
}
int rename(const char* from, const char* to) {
  return Step("rename", to) ? ((int (*)(const char*, const char*))Next("rename"))(from, to) : -1;
}
int unlink(const char* path) {
  return Step("unlink", path) ? ((int (*)(const char*))Next("unlink"))(path) : -1;
}
