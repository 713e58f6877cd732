/* The limit for a spawner: the system calls that procbench makes for a child, from C threads.
 *
 *   limit COUNT WORKERS PROGRAM [ARGUMENT...]     prints the seconds that COUNT children took
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MOST_WORKERS = 256 };

static atomic_int left;
static char **command;
static posix_spawnattr_t attributes;
static posix_spawn_file_actions_t actions;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void *work(void *unused) {
    (void)unused;
    while (atomic_fetch_sub(&left, 1) > 0) {
        pid_t pid;
        int status;
        struct rusage usage;
        volatile double started = seconds();
        if (posix_spawn(&pid, command[0], &actions, &attributes, command, environ)) {
            perror(command[0]);
            exit(1);
        }
        struct pollfd ended = {.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN};
        poll(&ended, 1, -1);
        volatile double over = seconds();
        wait4(pid, &status, WNOHANG, &usage);
        close(ended.fd);
        (void)started, (void)over;
    }
    return NULL;
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: limit COUNT WORKERS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    int workers = atoi(arguments[2]);
    if (workers < 1 || workers > MOST_WORKERS) return 2;
    left = atoi(arguments[1]);
    command = arguments + 3;

    sigset_t none, defaults;
    sigemptyset(&none);
    sigfillset(&defaults);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDWR, 0);
    posix_spawn_file_actions_addclosefrom_np(&actions, 3);

    pthread_t threads[MOST_WORKERS];
    double started = seconds();
    for (int i = 0; i < workers; i++) pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < workers; i++) pthread_join(threads[i], NULL);
    printf("%.6f\n", seconds() - started);
    return 0;
}
