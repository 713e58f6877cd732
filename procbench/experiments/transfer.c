/* The limit for moving bytes between a process and its child: the system calls that procbench makes, from C.
 *
 *   transfer take SIZE                  read standard input to its end, SIZE bytes at a time; the reader of all senders
 *   transfer give BYTES                 write BYTES to standard output, 1 MiB at a time, by write(2)
 *   transfer send WAY BYTES READER...   send BYTES of filled memory to READER by write, vmsplice or memfd; print seconds
 *   transfer receive WAY BYTES WRITER...  read BYTES from WRITER into fresh, huge or reused memory; print seconds
 *
 * The time runs from before the child starts until it has ended, as it does for every peer.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { PIPE = 1 << 20 };

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static char *memory(size_t size, int huge) {
    char *fresh = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) fail("mmap");
    if (huge) madvise(fresh, size, MADV_HUGEPAGE);
    return fresh;
}

static pid_t start(char **command, int stream, int end) {
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, end, stream);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);
    pid_t child;
    errno = posix_spawn(&child, command[0], &actions, NULL, command, environ);
    if (errno) fail(command[0]);
    close(end);
    return child;
}

static void reap(pid_t child) {
    int status;
    if (waitpid(child, &status, 0) != child || status) fail("child");
}

static void take(size_t size) {
    char *buffer = memory(size, 0);
    ssize_t got;
    while ((got = read(0, buffer, size)) > 0) {}
    if (got < 0) fail("read");
}

static void give(size_t left) {
    char *block = memory(PIPE, 0);
    memset(block, 'p', PIPE);
    while (left) {
        ssize_t went = write(1, block, left < PIPE ? left : PIPE);
        if (went < 0) fail("write");
        left -= (size_t)went;
    }
}

static double to_child(const char *way, size_t size, char **reader) {
    int file = -1, ends[2] = {-1, -1};
    char *source;
    if (!strcmp(way, "memfd")) {
        file = memfd_create("source", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, (off_t)size)) fail("memfd");
        source = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (source == MAP_FAILED) fail("mmap");
    } else {
        source = memory(size, 1);
    }
    memset(source, 'p', size);
    double started = seconds();
    if (file >= 0) {
        reap(start(reader, 0, file));
        return seconds() - started;
    }
    if (pipe2(ends, O_CLOEXEC)) fail("pipe2");
    pid_t child = start(reader, 0, ends[0]);
    fcntl(ends[1], F_SETPIPE_SZ, PIPE);
    while (size) {
        struct iovec piece = {source, size};
        ssize_t went = strcmp(way, "vmsplice") ? write(ends[1], source, size) : vmsplice(ends[1], &piece, 1, 0);
        if (went < 0) fail(way);
        source += went;
        size -= (size_t)went;
    }
    close(ends[1]);
    reap(child);
    return seconds() - started;
}

static double from_child(const char *way, size_t size, char **writer) {
    char *target = memory(size, !strcmp(way, "huge"));
    if (!strcmp(way, "reused")) memset(target, 1, size);
    double started = seconds();
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) fail("pipe2");
    fcntl(ends[0], F_SETPIPE_SZ, PIPE);
    pid_t child = start(writer, 1, ends[1]);
    while (size) {
        ssize_t got = read(ends[0], target, size);
        if (got <= 0) fail("read");
        target += got;
        size -= (size_t)got;
    }
    reap(child);
    return seconds() - started;
}

int main(int count, char **arguments) {
    if (count == 3 && !strcmp(arguments[1], "take")) {
        take(strtoull(arguments[2], NULL, 10));
    } else if (count == 3 && !strcmp(arguments[1], "give")) {
        give(strtoull(arguments[2], NULL, 10));
    } else if (count > 4 && !strcmp(arguments[1], "send")) {
        printf("%.6f\n", to_child(arguments[2], strtoull(arguments[3], NULL, 10), arguments + 4));
    } else if (count > 4 && !strcmp(arguments[1], "receive")) {
        printf("%.6f\n", from_child(arguments[2], strtoull(arguments[3], NULL, 10), arguments + 4));
    } else {
        fprintf(stderr, "usage: transfer take|give SIZE, or transfer send|receive WAY BYTES COMMAND...\n");
        return 2;
    }
    return 0;
}
