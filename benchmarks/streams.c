/* The writers whose output every way reads, and the limit for reading it: the same system calls from C.
 *
 *   streams give BYTES SIZE               write BYTES to standard output from one buffer, SIZE at a time
 *   streams lines COUNT LENGTH            write COUNT lines of LENGTH bytes each, their newlines included
 *   streams read SIZE PIPE WRITER...      read WRITER's output to its end into one buffer of SIZE bytes, from a pipe
 *                                         of PIPE bytes that does not block; print bytes, seconds and CPU seconds
 *
 * The time runs from before the child starts until it has ended, as it does for every peer; CPU time is this process's own.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { BLOCK = 64 * 1024 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static char *memory(size_t size) {
    char *fresh = malloc(size);
    if (!fresh) fail("malloc");
    memset(fresh, 'p', size);
    return fresh;
}

/* Write the block again and again, from where the last write stopped, until so many bytes went. */
static void give(const char *block, size_t size, size_t left) {
    size_t at = 0;
    while (left) {
        size_t most = size - at;
        ssize_t went = write(1, block + at, left < most ? left : most);
        if (went < 0) fail("write");
        at = (at + (size_t)went) % size;
        left -= (size_t)went;
    }
}

static void lines(size_t count, size_t length) {
    size_t in_block = length < BLOCK ? BLOCK / length : 1;
    char *block = memory(in_block * length);
    for (size_t line = 1; line <= in_block; line++) block[line * length - 1] = '\n';
    give(block, in_block * length, count * length);
}

static void read_all(size_t size, int pipe_size, char **writer) {
    char *buffer = memory(size);
    double started = seconds(), busy = cpu_seconds();
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) fail("pipe2");
    if (fcntl(ends[0], F_SETPIPE_SZ, pipe_size) < 0) fail("F_SETPIPE_SZ");
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK)) fail("O_NONBLOCK");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    pid_t child;
    errno = posix_spawn(&child, writer[0], &actions, NULL, writer, environ);
    if (errno) fail(writer[0]);
    close(ends[1]);

    struct pollfd ready = {.fd = ends[0], .events = POLLIN};
    size_t total = 0;
    for (;;) {
        ssize_t got = read(ends[0], buffer, size);
        if (got > 0) {
            total += (size_t)got;
        } else if (got == 0) {
            break;
        } else if (errno != EAGAIN || poll(&ready, 1, -1) < 0) {
            fail("read");
        }
    }
    int status;
    if (waitpid(child, &status, 0) != child || status) fail("child");
    printf("%zu %.6f %.6f\n", total, seconds() - started, cpu_seconds() - busy);
}

static size_t number(const char *word) { return strtoull(word, NULL, 10); }

int main(int count, char **arguments) {
    if (count == 4 && !strcmp(arguments[1], "give") && number(arguments[3])) {
        size_t size = number(arguments[3]);
        give(memory(size), size, number(arguments[2]));
    } else if (count == 4 && !strcmp(arguments[1], "lines") && number(arguments[3])) {
        lines(number(arguments[2]), number(arguments[3]));
    } else if (count > 4 && !strcmp(arguments[1], "read") && number(arguments[2])) {
        read_all(number(arguments[2]), (int)number(arguments[3]), arguments + 4);
    } else {
        fprintf(stderr, "usage: streams give BYTES SIZE | lines COUNT LENGTH | read SIZE PIPE WRITER...\n");
        return 2;
    }
    return 0;
}
