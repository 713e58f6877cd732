/* The limit for a spawner: what procbench does for a child, from C threads.
 *
 *   limit spawn|clone COUNT WORKERS PROGRAM [ARGUMENT...]     prints the seconds that COUNT children took
 *   limit look COUNT                                          prints the CPU seconds that a look at all processes takes
 *
 * spawn: by posix_spawn, as C programs do. clone: on a stack that each thread keeps, as procbench's workers do. look: every
 * /proc/PID/stat, opened, read and closed; the mean of COUNT looks that lie as far apart as those of the benchmark.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { MOST_WORKERS = 256, STACK_BYTES = 32 * 1024, EXEC_FAILED = 127 };

static atomic_int left;
static int by_clone;
static int null_fd;
static char **command;
static posix_spawnattr_t attributes;
static posix_spawn_file_actions_t actions;

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* What the child does before its exec. This program catches no signal and ignores only SIGPIPE, as Python does. */
static int become(void *unused) {
    (void)unused;
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0);
    signal(SIGPIPE, SIG_DFL);
    dup2(null_fd, 0);
    close_range(3, ~0U, 0);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execve(command[0], command, environ);
    _exit(EXEC_FAILED);
}

static pid_t start(char *stack, int *pidfd) {
    pid_t pid = -1;
    if (by_clone) {
        sigset_t all, before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        pid = clone(become, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, NULL, pidfd);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    } else if (posix_spawn(&pid, command[0], &actions, &attributes, command, environ) == 0) {
        *pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    }
    if (pid <= 0) {
        perror(command[0]);
        exit(1);
    }
    return pid;
}

static void *work(void *unused) {
    (void)unused;
    char *stack = malloc(STACK_BYTES);
    while (atomic_fetch_sub(&left, 1) > 0) {
        int status;
        struct rusage usage;
        struct pollfd ended = {.events = POLLIN};
        volatile double started = seconds();
        pid_t pid = start(stack, &ended.fd);
        poll(&ended, 1, -1);
        volatile double over = seconds();
        wait4(pid, &status, WNOHANG, &usage);
        close(ended.fd);
        (void)started, (void)over;
        if (status != 0) exit(1);
    }
    free(stack);
    return NULL;
}

static double thread_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double look(void) {
    char name[300], text[512];
    double before = thread_seconds();
    DIR *folder = opendir("/proc");
    if (folder == NULL) return -1;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (!isdigit((unsigned char)entry->d_name[0])) continue;
        snprintf(name, sizeof name, "%s/stat", entry->d_name);
        int fd = openat(dirfd(folder), name, O_RDONLY | O_CLOEXEC);
        if (fd < 0) continue;
        ssize_t had = read(fd, text, sizeof text);
        (void)had;
        close(fd);
    }
    closedir(folder);
    return thread_seconds() - before;
}

static int looks(int count) {
    double spent = 0;
    for (int i = 0; i < count; i++) {
        usleep(60000);
        spent += look();
    }
    printf("%.6f\n", spent / count);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 3 && strcmp(arguments[1], "look") == 0) return looks(atoi(arguments[2]));
    if (count < 5) {
        fprintf(stderr, "usage: limit spawn|clone COUNT WORKERS PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    by_clone = strcmp(arguments[1], "clone") == 0;
    int workers = atoi(arguments[3]);
    if (workers < 1 || workers > MOST_WORKERS) return 2;
    left = atoi(arguments[2]);
    command = arguments + 4;
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    signal(SIGPIPE, SIG_IGN);

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
