/* The limit for reading children's output in one loop: the system calls that an event loop makes, from C.
 *
 *   streams SIZE PIPE CHILDREN LINES WRITER...
 *
 * Start CHILDREN writers, and read the output of all to the end into one buffer of SIZE bytes, by poll(2) and readv(2) from
 * pipes that do not block, of PIPE bytes each (0 leaves the kernel's size). With LINES other than 0 look for every line's
 * end. Print bytes, children that ended with status 0, seconds, CPU seconds of this process, and lines.
 *
 * The time runs from before the first child starts until the last has ended, as it does for every other way.
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
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

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

static void *memory(size_t size) {
    void *fresh = malloc(size);
    if (!fresh) fail("malloc");
    return memset(fresh, 0, size);
}

static pid_t start(char **writer, int pipe_size, int *read_end) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) fail("pipe2");
    if (pipe_size) (void)fcntl(ends[0], F_SETPIPE_SZ, pipe_size); /* a smaller pipe does the same work in more steps */
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK)) fail("O_NONBLOCK");
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    pid_t child;
    errno = posix_spawnp(&child, writer[0], &actions, NULL, writer, environ);
    if (errno) fail(writer[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    *read_end = ends[0];
    return child;
}

static size_t lines_in(const char *at, size_t size) {
    size_t found = 0;
    for (const char *end = at + size; at < end && (at = memchr(at, '\n', (size_t)(end - at))); at++) found++;
    return found;
}

static size_t number(const char *word) { return strtoull(word, NULL, 10); }

int main(int count, char **arguments) {
    if (count < 6 || !number(arguments[1]) || !number(arguments[3])) {
        fprintf(stderr, "usage: streams SIZE PIPE CHILDREN LINES WRITER...\n");
        return 2;
    }
    size_t size = number(arguments[1]), children = number(arguments[3]), total = 0, lines = 0, open = children, ended = 0;
    struct iovec piece = {memory(size), size};
    struct pollfd *pipes = memory(children * sizeof *pipes);
    pid_t *pids = memory(children * sizeof *pids);
    double started = seconds(), busy = cpu_seconds();
    for (size_t child = 0; child < children; child++) {
        pipes[child].events = POLLIN;
        pids[child] = start(arguments + 5, (int)number(arguments[2]), &pipes[child].fd);
    }
    while (open) {
        if (poll(pipes, children, -1) < 0) fail("poll");
        for (size_t child = 0; child < children; child++) {
            if (!pipes[child].revents) continue;
            ssize_t got = readv(pipes[child].fd, &piece, 1);
            if (got > 0) {
                total += (size_t)got;
                if (number(arguments[4])) lines += lines_in(piece.iov_base, (size_t)got);
            } else if (got == 0) {
                close(pipes[child].fd);
                pipes[child].fd = -1;
                open--;
            } else if (errno != EAGAIN) {
                fail("readv");
            }
        }
    }
    for (size_t child = 0; child < children; child++) {
        int status;
        if (waitpid(pids[child], &status, 0) == pids[child] && !status) ended++;
    }
    printf("%zu %zu %.6f %.6f %zu\n", total, ended, seconds() - started, cpu_seconds() - busy, lines);
    return 0;
}
