/*
 * Services of the test guest: commands
 *
 *   ping                      pong
 *   time                      nanoseconds: monotonic, real
 *   dirty MIB RATE KIND       ok
 *   stat                      pages written by the load, wrong pages
 *   scatter MIB RATE RUN      ok
 *   scattered                 pages written by that load
 *   writes KIND               ok
 *   written                   writes done by that load, its errno or 0
 *   udp CLIENT N              how often each of the first N was executed
 *   disk                      kind of the data disk's file system, or none
 *   sync                      ok, when all files are on the disk
 *   record CLIENT SEQ         as the record service does: ok or an errno
 *   cat FILE                  its text, lines joined by "|"
 *   threads                   where each thread of ours is in the kernel
 *   suspend                   to RAM; ok when the guest has woken up
 *   poweroff, reboot, crash   no answer
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include "guestd.h"

static void write_to(const char *path, const char *word)
{
    int fd = open(path, O_WRONLY);

    write_all(fd, word, strlen(word));
    close(fd);
}

static void report_disk(char *reply, size_t size)
{
    struct statfs fs;
    bool ext = statfs("/data", &fs) == 0 && fs.f_type == 0xef53;

    snprintf(reply, size, "%s", ext ? "ext4" : "none");
}

/* Append the text of @path to @reply, as one line. Returns its new length. */
static size_t append_file(const char *path, char *reply, size_t len,
                          size_t size)
{
    int fd = open(path, O_RDONLY);
    ssize_t got;
    size_t i = len;

    while (fd >= 0 && len < size - 1 &&
           (got = read(fd, reply + len, size - 1 - len)) > 0) {
        len += got;
    }
    if (fd >= 0) {
        close(fd);
    }
    for (; i < len; i++) {
        reply[i] = reply[i] == '\n' ? '|' : reply[i];
    }
    reply[len] = 0;
    return len;
}

static void report_threads(char *reply, size_t size)
{
    DIR *tasks = opendir("/proc/self/task");
    struct dirent *task;
    size_t len = 0;

    reply[0] = 0;
    while (tasks && (task = readdir(tasks))) {
        char path[300];

        if (task->d_name[0] == '.') {
            continue;
        }
        snprintf(path, sizeof(path), "/proc/self/task/%s/stack", task->d_name);
        len = append_file(path, reply, len, size);
        if (len < size - 1) {
            reply[len++] = ';';
            reply[len] = 0;
        }
    }
    if (tasks) {
        closedir(tasks);
    }
}

/* Commands about the loads that measurements use. False: it is none. */
static bool load_command(const char *line, char *reply, size_t size)
{
    unsigned mib, rate, run;
    const char *error = NULL;
    char kind[16];
    int failed;

    if (sscanf(line, "scatter %u %u %u", &mib, &rate, &run) == 3) {
        error = scatter_set(mib, rate, run);
    } else if (sscanf(line, "writes %15s", kind) == 1) {
        error = writes_set(kind);
    } else if (!strcmp(line, "scattered")) {
        snprintf(reply, size, "%llu", (unsigned long long)scatter_stat());
        return true;
    } else if (!strcmp(line, "written")) {
        uint64_t writes = writes_stat(&failed);

        snprintf(reply, size, "%llu %d", (unsigned long long)writes, failed);
        return true;
    } else if (!strcmp(line, "second")) {
        uint64_t number = writes_second(&failed);

        snprintf(reply, size, "%llu %d", (unsigned long long)number, failed);
        return true;
    } else {
        return false;
    }
    snprintf(reply, size, "%s", error ? error : "ok");
    return true;
}

void control_command(const char *line, char *reply, size_t size)
{
    unsigned mib, rate, client, n;
    int error;
    uint64_t pages, bad;
    char kind[16], path[100];

    if (!strcmp(line, "ping")) {
        snprintf(reply, size, "pong");
    } else if (!strcmp(line, "time")) {
        snprintf(reply, size, "%llu %llu",
                 (unsigned long long)clock_ns(CLOCK_MONOTONIC),
                 (unsigned long long)clock_ns(CLOCK_REALTIME));
    } else if (sscanf(line, "dirty %u %u %15s", &mib, &rate, kind) == 3) {
        const char *error = dirty_set(mib, rate, kind);

        snprintf(reply, size, "%s", error ? error : "ok");
    } else if (!strcmp(line, "stat")) {
        dirty_stat(&pages, &bad);
        snprintf(reply, size, "%llu %llu", (unsigned long long)pages,
                 (unsigned long long)bad);
    } else if (sscanf(line, "udp %u %u", &client, &n) == 2 && n < size) {
        udp_counts(client, n, reply);
    } else if (!strcmp(line, "disk")) {
        report_disk(reply, size);
    } else if (!strcmp(line, "sync")) {
        sync();
        snprintf(reply, size, "ok");
    } else if (sscanf(line, "record %u %u", &client, &n) == 2) {
        error = record_append(client, n, "x");
        snprintf(reply, size, error ? "error %d" : "ok", error);
    } else if (sscanf(line, "cat %99s", path) == 1) {
        reply[0] = 0;
        append_file(path, reply, 0, size);
    } else if (!strcmp(line, "threads")) {
        report_threads(reply, size);
    } else if (!strcmp(line, "poweroff")) {
        reboot(RB_POWER_OFF);
    } else if (!strcmp(line, "reboot")) {
        reboot(RB_AUTOBOOT);
    } else if (!strcmp(line, "crash")) {
        write_to("/proc/sysrq-trigger", "c");
    } else if (!strcmp(line, "suspend")) {
        write_to("/sys/power/state", "mem");
        snprintf(reply, size, "ok");
    } else if (!load_command(line, reply, size)) {
        snprintf(reply, size, "unknown command");
    }
}

void serve_control(int fd)
{
    LineReader r = { .fd = fd };
    static __thread char reply[UDP_REQUESTS + 64];
    char line[1024];

    while (read_line(&r, line, sizeof(line))) {
        size_t len;

        control_command(line, reply, sizeof(reply) - 1);
        len = strlen(reply);
        reply[len++] = '\n';
        if (!write_all(fd, reply, len)) {
            break;
        }
    }
}
