/* A load generator of one thread: keep-alive connections to 127.0.0.1, a closed loop or an open one.
 *
 *   loadgen PORT CONNECTIONS SECONDS MOST RATE SEED CORE FILE...
 *
 * Each FILE holds one whole HTTP/1.1 request; each request sent is one of them, drawn evenly. It ends after SECONDS or
 * MOST requests, whichever comes first. With RATE 0 every connection asks again as soon as it has its answer; with a
 * rate, request i is planned for i / RATE and its latency counts from there, whether or not a connection was free: a
 * slow server cannot lower what is asked of it. `late` is this program's own share of that: how long after its planned
 * moment, and after a connection was free, a request was sent. CORE pins it; -1 does not.
 *
 * An answer is good when its status is 200 and its body complete; trailers behind the last chunk are not known. It
 * prints one line of JSON, in which `unsent` are the planned requests for which no connection was free in time, and
 * whose wait is in no percentile: then the rate was too high. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { ROOM = 1 << 18, MOST_CONNECTIONS = 1024, MOST_FILES = 16384 };
#define GRACE 5.0 /* seconds for the answers that are still on their way at the end */

typedef struct { char *bytes; size_t length; } Request;

typedef struct {
    int fd;
    int busy;
    double planned, freed;
    const Request *request;
    size_t sent, held;    /* bytes of the request sent, of the answer read */
    size_t head;          /* where the body begins; 0 until the headers are complete */
    long body;            /* Content-Length, -1 for chunks, -2 for all until the connection closes */
    size_t chunk;         /* where the next chunk begins */
    int good, closes;
    char answer[ROOM];
} Connection;

static Connection *connections;
static Request requests[MOST_FILES];
static int port, count, files, epoll, timer;
static double began, rate;
static uint64_t most, planned_requests, failed, done, state;
static float *latencies, *lateness;
static Connection *idle[MOST_CONNECTIONS];
static int idles;

static void die(const char *what) {
    fprintf(stderr, "loadgen: %s: %s\n", what, strerror(errno));
    exit(2);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* splitmix64: the same mix for the same seed, everywhere. */
static uint64_t draw(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ------------------------------------------------------------------ connections */

static void watch(Connection *c, uint32_t events, int how) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, how, c->fd, &event)) die("epoll_ctl");
}

/* A connection to this machine is made at once, or its queue is full and waiting is right: so it blocks. */
static void open_connection(Connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

static void reopen(Connection *c) {
    close(c->fd);
    open_connection(c);
}

/* ------------------------------------------------------------------ asking */

static void push(Connection *c) {
    while (c->sent < c->request->length) {
        ssize_t n = send(c->fd, c->request->bytes + c->sent, c->request->length - c->sent, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (n < 0) return; /* the end of the connection is read, and counted there */
        c->sent += (size_t)n;
    }
}

static void ask(Connection *c, double planned) {
    double at = now(), possible = planned > c->freed ? planned : c->freed;
    lateness[planned_requests++] = (float)(at - possible);
    c->planned = planned;
    c->request = &requests[files > 1 ? draw() % (uint64_t)files : 0];
    c->busy = 1;
    c->sent = c->held = c->head = 0;
    push(c);
}

static double next_planned(void) { return began + (double)planned_requests / rate; }

/* Send what is due on the connections that are free. */
static void ask_due(double end) {
    while (idles && planned_requests < most) {
        double at = now(), planned = rate > 0 ? next_planned() : at;
        if (planned > at || planned >= end) break;
        ask(idle[--idles], planned);
    }
}

/* Wake for the next planned request; a timer of its own, as epoll's would be rounded to milliseconds. */
static void set_timer(void) {
    double at = next_planned();
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - (double)(time_t)at) * 1e9)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) die("timerfd_settime");
}

/* ------------------------------------------------------------------ answers */

/* Return the value of a header of the answer, or NULL; `name` has its colon. */
static const char *header(const Connection *c, const char *name) {
    size_t length = strlen(name);
    for (const char *line = c->answer; line < c->answer + c->head - 4; line++) {
        line = memchr(line, '\n', (size_t)(c->answer + c->head - line));
        if (!line || line + 1 >= c->answer + c->head - 2) return NULL;
        if (!strncasecmp(line + 1, name, length)) return line + 1 + length + strspn(line + 1 + length, " ");
    }
    return NULL;
}

static int says(const char *value, const char *word) { return value && !strncasecmp(value, word, strlen(word)); }

static void read_head(Connection *c) {
    const char *end = memmem(c->answer, c->held, "\r\n\r\n", 4);
    if (!end) return;
    c->head = c->chunk = (size_t)(end - c->answer) + 4;
    c->good = c->held > 12 && !memcmp(c->answer, "HTTP/1.", 7) && !memcmp(c->answer + 8, " 200", 4);
    const char *length = header(c, "content-length:");
    int chunked = says(header(c, "transfer-encoding:"), "chunked");
    c->body = length ? strtol(length, NULL, 10) : chunked ? -1 : -2;
    c->closes = says(header(c, "connection:"), "close") || c->body == -2;
}

/* Step over complete chunks; return whether the last one is there. */
static int has_last_chunk(Connection *c) {
    for (;;) {
        const char *size = c->answer + c->chunk, *line = memmem(size, c->held - c->chunk, "\r\n", 2);
        if (!line) return 0;
        size_t length = strtoul(size, NULL, 16), next = (size_t)(line - c->answer) + 2 + length + 2;
        if (next > c->held) return 0;
        if (!length) return 1;
        c->chunk = next;
    }
}

static int is_complete(Connection *c, int ended) {
    c->answer[c->held] = 0;
    if (!c->head) read_head(c);
    if (!c->head) return 0;
    if (c->body >= 0) return c->held >= c->head + (size_t)c->body;
    return c->body == -1 ? has_last_chunk(c) : ended;
}

static void finish(Connection *c, int good) {
    c->busy = 0;
    c->freed = now();
    failed += !good;
    latencies[done++] = (float)(c->freed - c->planned);
    idle[idles++] = c;
}

/* Read what has come; an end of the connection before the end of an answer is a failure. */
static void pull(Connection *c) {
    int ended = 0;
    while (!ended && c->held < ROOM - 1) {
        ssize_t n = recv(c->fd, c->answer + c->held, ROOM - 1 - c->held, 0);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        ended = n <= 0;
        c->held += n > 0 ? (size_t)n : 0;
        if (n > 0 && c->busy && is_complete(c, 0)) break; /* no second call only to hear that there is no more */
    }
    int complete = c->busy && is_complete(c, ended), closes = c->head && c->closes;
    if (complete) finish(c, c->good);
    else if (c->busy && (ended || c->held >= ROOM - 1)) finish(c, 0);
    else if (!ended) return;
    if (ended || closes) reopen(c);
    c->held = c->head = 0;
}

/* ------------------------------------------------------------------ the run */

static void step(double until) {
    struct epoll_event events[MOST_CONNECTIONS];
    double left = until - now();
    int found = epoll_wait(epoll, events, MOST_CONNECTIONS, left > 0 ? (int)(left * 1e3) + 1 : 0);
    for (int i = 0; i < found; i++) {
        Connection *c = events[i].data.ptr;
        uint64_t ticks;
        if (!c) {
            if (read(timer, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timer");
            continue;
        }
        if (events[i].events & EPOLLOUT) {
            watch(c, EPOLLIN, EPOLL_CTL_MOD);
            push(c);
        }
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) pull(c);
    }
}

/* How many requests were planned for a moment within the time, but found no free connection before its end. */
static uint64_t unsent(double seconds) {
    uint64_t planned = rate > 0 ? (uint64_t)(rate * seconds) : 0;
    if (planned > most) planned = most;
    return planned > planned_requests ? planned - planned_requests : 0;
}

/* Ask until the end; the answers that are then on their way are waited for. */
static void run(double seconds) {
    began = now();
    double end = began + seconds;
    while (now() < end && done < most) {
        ask_due(end);
        if (rate > 0 && idles && planned_requests < most) set_timer();
        step(end);
    }
    double took = now() - began;
    uint64_t answered = done;
    while (done < planned_requests && now() < end + GRACE) step(end + GRACE);
    failed += planned_requests - done;
    printf("{\"requests\": %lu, \"failed\": %lu, \"unsent\": %lu, \"seconds\": %.6f, \"requests_s\": %.1f",
           (unsigned long)planned_requests, (unsigned long)failed, (unsigned long)unsent(seconds), took,
           (double)answered / took);
}

static int compare(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const float *sorted, uint64_t n, double share) {
    return n ? 1e6 * sorted[(uint64_t)((double)(n - 1) * share)] : 0;
}

static void tell(void) {
    qsort(latencies, done, sizeof *latencies, compare);
    qsort(lateness, planned_requests, sizeof *lateness, compare);
    printf(", \"p50_us\": %.1f, \"p90_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, \"late_p99_us\": %.1f}\n",
           percentile(latencies, done, 0.5), percentile(latencies, done, 0.9), percentile(latencies, done, 0.99),
           percentile(latencies, done, 1), percentile(lateness, planned_requests, 0.99));
}

static void read_request(const char *path, Request *r) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    r->length = (size_t)ftell(file);
    rewind(file);
    r->bytes = malloc(r->length + 1);
    if (!r->bytes || fread(r->bytes, 1, r->length, file) != r->length) die(path);
    fclose(file);
}

static void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores)) die("pin");
}

static void prepare(int core) {
    connections = calloc((size_t)count, sizeof *connections);
    latencies = calloc(most, sizeof *latencies);
    lateness = calloc(most, sizeof *lateness);
    if (!connections || !latencies || !lateness) die("memory");
    if (core >= 0) pin(core);
    prctl(PR_SET_TIMERSLACK, 1);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &event)) die("epoll_ctl");
    for (int i = 0; i < count; i++) {
        open_connection(&connections[i]);
        idle[idles++] = &connections[i];
    }
}

int main(int argc, char **argv) {
    if (argc < 9) {
        fputs("loadgen PORT CONNECTIONS SECONDS MOST RATE SEED CORE FILE...\n", stderr);
        return 2;
    }
    port = atoi(argv[1]), count = atoi(argv[2]), most = strtoul(argv[4], NULL, 10);
    double seconds = atof(argv[3]);
    rate = atof(argv[5]), state = strtoul(argv[6], NULL, 10), files = argc - 8;
    if (count < 1 || count > MOST_CONNECTIONS || files > MOST_FILES || seconds <= 0 || most < 1) {
        fputs("loadgen: 1 to 1024 connections, at most 16384 files, bounds above 0\n", stderr);
        return 2;
    }
    for (int i = 0; i < files; i++) read_request(argv[8 + i], &requests[i]);
    prepare(atoi(argv[7]));
    run(seconds);
    tell();
    return failed > 0;
}
