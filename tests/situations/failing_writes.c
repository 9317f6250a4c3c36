// SPDX-License-Identifier: BSD-3-Clause
// Loaded before the C library: fails the k-th call that writes under a folder. tests/situations/fork_server.py has its use.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long calls;
static long failing;
static int error_number, for_ever;
static char failed_call[64];

void arm(const char* under, long k, int number, int sticky) {
  snprintf(folder, sizeof folder, "%s", under);
  failing = k;
  error_number = number;
  for_ever = sticky;
  atomic_store(&calls, 0);
}
long count_calls(void) { return atomic_load(&calls); }
const char* failed_name(void) { return failed_call; }

static int under(const char* path) { return folder[0] && path && !strncmp(path, folder, strlen(folder)); }

static int inside(int file) {
  if (!folder[0] || file < 3) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return under(path);
}

static int fails(const char* name) {
  long k = atomic_fetch_add(&calls, 1) + 1;
  if (!failing || k < failing || (k > failing && !for_ever)) return 0;
  if (k == failing) snprintf(failed_call, sizeof failed_call, "%s", name);
  errno = error_number;
  return 1;
}

#define NEXT(name) static __typeof__(name)* next; if (!next) next = (__typeof__(name)*)dlsym(RTLD_NEXT, #name)

#define ON_FILE(type, name, arguments, call) \
  type name arguments { NEXT(name); if (inside(file) && fails(#name)) return -1; return next call; }

ON_FILE(ssize_t, write, (int file, const void* data, size_t size), (file, data, size))
ON_FILE(ssize_t, writev, (int file, const struct iovec* parts, int count), (file, parts, count))
ON_FILE(ssize_t, pwrite, (int file, const void* data, size_t size, off_t at), (file, data, size, at))
ON_FILE(ssize_t, pwrite64, (int file, const void* data, size_t size, off64_t at), (file, data, size, at))
ON_FILE(int, fsync, (int file), (file))
ON_FILE(int, fdatasync, (int file), (file))
ON_FILE(int, ftruncate, (int file, off_t size), (file, size))
ON_FILE(int, ftruncate64, (int file, off64_t size), (file, size))
ON_FILE(ssize_t, sendfile, (int file, int from, off_t* at, size_t size), (file, from, at, size))
ON_FILE(ssize_t, sendfile64, (int file, int from, off64_t* at, size_t size), (file, from, at, size))

ssize_t copy_file_range(int from, off64_t* a, int file, off64_t* b, size_t size, unsigned flags) {
  NEXT(copy_file_range);
  return inside(file) && fails("copy_file_range") ? -1 : next(from, a, file, b, size, flags);
}
int posix_fallocate(int file, off_t at, off_t size) {
  NEXT(posix_fallocate);
  return inside(file) && fails("posix_fallocate") ? error_number : next(file, at, size);
}
int posix_fallocate64(int file, off64_t at, off64_t size) {
  NEXT(posix_fallocate64);
  return inside(file) && fails("posix_fallocate64") ? error_number : next(file, at, size);
}
// A file that was open to write is closed in any case; some storages tell only then.
int close(int file) {
  NEXT(close);
  int writes = inside(file) && (fcntl(file, F_GETFL) & O_ACCMODE) != O_RDONLY;
  int result = next(file);
  return writes && fails("close") ? -1 : result;
}

static int creates(const char* path, int flags) { return under(path) && (flags & O_CREAT); }
#define OPEN(name, ...) \
  mode_t mode = 0; \
  if (flags & (O_CREAT | __O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
  NEXT(name); \
  if (creates(path, flags) && fails(#name)) return -1; \
  return next(__VA_ARGS__, mode);
int open(const char* path, int flags, ...) { OPEN(open, path, flags) }
int open64(const char* path, int flags, ...) { OPEN(open64, path, flags) }
int openat(int at, const char* path, int flags, ...) { OPEN(openat, at, path, flags) }
int openat64(int at, const char* path, int flags, ...) { OPEN(openat64, at, path, flags) }

int rename(const char* from, const char* to) {
  NEXT(rename);
  return under(to) && fails("rename") ? -1 : next(from, to);
}
int mkdir(const char* path, mode_t mode) {
  NEXT(mkdir);
  return under(path) && fails("mkdir") ? -1 : next(path, mode);
}
