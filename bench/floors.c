/* The floors of the benches: the smallest programs that do just the necessary system calls or arithmetic.
   Compiled when a bench runs and called in its process. File functions return the bytes they read, or FAILED. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FAILED UINT64_MAX

/* The first and last words of what was read go into a sum, so that no read can be left out. */
static uint64_t some(const char *data, size_t size) {
  uint64_t first = 0, last = 0;
  if (size < 8) return size;
  memcpy(&first, data, 8);
  memcpy(&last, data + size - 8, 8);
  return first ^ last;
}

/* Four streams of words: as fast as one thread reads. */
uint64_t sum_words(const uint64_t *words, size_t count) {
  uint64_t a = 0, b = 0, c = 0, d = 0;
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    a += words[i];
    b += words[i + 1];
    c += words[i + 2];
    d += words[i + 3];
  }
  for (; i < count; ++i) a += words[i];
  return a + b + c + d;
}

/* One pread of each range of one file. With `touch`, all its words are summed, else only its ends are looked at. */
uint64_t pread_ranges(const char *path, const uint64_t *offset, const uint64_t *size, size_t count, int touch,
                      uint64_t *sum) {
  uint64_t total = 0, longest = 0;
  for (size_t i = 0; i < count; ++i) longest = size[i] > longest ? size[i] : longest;
  uint64_t *buffer = malloc(longest + 8);
  const int fd = open(path, O_RDONLY);
  for (size_t i = 0; buffer != NULL && fd >= 0 && i < count; ++i) {
    if (pread(fd, buffer, size[i], (off_t)offset[i]) != (ssize_t)size[i]) {
      total = FAILED;
      break;
    }
    *sum += touch ? sum_words(buffer, size[i] / 8) : some((const char *)buffer, size[i]);
    total += size[i];
  }
  if (buffer == NULL || fd < 0) total = FAILED;
  free(buffer);
  if (fd >= 0) close(fd);
  return total;
}

static int write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n <= 0) return -1;
    data += n;
    size -= (size_t)n;
  }
  return 0;
}

/* Reads ranges of several files into a buffer of 4 MiB and writes it out each time it is full. */
uint64_t copy_ranges(const char *const *paths, const uint32_t *file, const uint64_t *offset, const uint64_t *size,
                     size_t count, const char *out_path) {
  const size_t room = (size_t)4 << 20;
  char *buffer = malloc(room);
  const int out = open(out_path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  int in = -1;
  uint32_t open_file = UINT32_MAX;
  size_t used = 0;
  uint64_t total = 0;
  int good = buffer != NULL && out >= 0;
  for (size_t i = 0; good && i < count; ++i) {
    if (file[i] != open_file) {
      if (in >= 0) close(in);
      in = open(paths[file[i]], O_RDONLY);
      open_file = file[i];
    }
    uint64_t done = 0;
    while (good && done < size[i]) {
      if (used == room) {
        good = write_all(out, buffer, used) == 0;
        used = 0;
      }
      const uint64_t left = size[i] - done;
      const size_t want = left < room - used ? (size_t)left : room - used;
      const ssize_t n = pread(in, buffer + used, want, (off_t)(offset[i] + done));
      if (n <= 0) good = 0;
      if (n > 0) used += (size_t)n, done += (uint64_t)n;
    }
    total += size[i];
  }
  if (good) good = write_all(out, buffer, used) == 0;
  free(buffer);
  if (in >= 0) close(in);
  if (out >= 0) close(out);
  return good ? total : FAILED;
}

/* What any radix sort does at least: count the high 12 bits, then put each uid into its bucket. */
void count_and_scatter(const uint64_t *in, uint64_t *out, size_t count) {
  static __thread size_t at[4097];
  memset(at, 0, sizeof(at));
  for (size_t i = 0; i < count; ++i) ++at[(in[2 * i] >> 52) + 1];
  for (size_t b = 0; b < 4096; ++b) at[b + 1] += at[b];
  for (size_t i = 0; i < count; ++i) {
    const size_t to = at[in[2 * i] >> 52]++;
    out[2 * to] = in[2 * i];
    out[2 * to + 1] = in[2 * i + 1];
  }
}

/* Membership where both sides are sorted already. Returns how many needles are in the hay. */
uint64_t merge_sorted(const uint64_t *hay, size_t num_hay, const uint64_t *needles, size_t num_needles) {
  uint64_t found = 0;
  size_t h = 0;
  for (size_t i = 0; i < num_needles; ++i) {
    const uint64_t hi = needles[2 * i], lo = needles[2 * i + 1];
    while (h < num_hay && (hay[2 * h] < hi || (hay[2 * h] == hi && hay[2 * h + 1] < lo))) ++h;
    found += h < num_hay && hay[2 * h] == hi && hay[2 * h + 1] == lo;
  }
  return found;
}

/* The traffic of parsing without the work: 32 bytes read and 16 written a uid. */
void fold_text(const uint64_t *text, size_t count, uint64_t *out) {
  for (size_t i = 0; i < 2 * count; ++i) out[i] = text[2 * i] ^ text[2 * i + 1];
}
