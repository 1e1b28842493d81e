/* The load of the benchmark: one thread, epoll, keep-alive. Every answer is checked; what failed is counted and the first is told.
 *
 *   cc -O2 -o client client.c && ./client PORT FILE... [-c CONNECTIONS] [-s SECONDS] [-r PER_SECOND] [-e CHUNKS] [-t SPREAD_MS]
 *
 * Each FILE is a whole request (head and body), and they are sent in turn. Without -r: fixed concurrency, each connection asks again
 * as soon as it is answered. With -r: an open loop, a request is due each 1/r seconds whatever became of those before, and its
 * latency counts from then (no coordinated omission). -e: the answers are streams of so many chunks; each carries the moment it was
 * sent as ~ and 13 hexadecimal digits (microseconds of CLOCK_MONOTONIC), and ends with [DONE]. -t: open the connections over so long.
 * Prints one line of JSON. Times in microseconds; `delay` of a chunk is from its sending to its arrival, `gap` by how much the time
 * since the chunk before differs from what it was when they were sent. Linux only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CONNS = 20000, MAX_FILES = 256, HEAD = 16384, TAIL = 15, STAMP = 13, READ = 262144 };
enum framing { NONE, LENGTH, CHUNKED };
enum part { SIZE, DATA, DATA_END, LAST };

struct request { char *bytes; size_t n; };
struct conn {
    int fd, busy, connected;
    long due_us;                /* when the request was due; its latency counts from here */
    const struct request *out;
    size_t sent;
    char head[HEAD];
    size_t head_len;
    int in_body;
    enum framing framing;
    enum part part;
    size_t left, size;          /* of the body or of the chunk; the size line that is being read */
    int stamp_digits;           /* -1: no stamp is being read */
    long stamp_us, last_stamp_us, last_seen_us;
    int chunks;
    char tail[TAIL + 1];
    size_t tail_len;
};
struct series { unsigned *at; size_t n, cap; };

static struct conn *conns;
static struct request requests[MAX_FILES];
static int file_count, conn_count = 32, expected, poller, port;
static long ends_us, failed, next_file;
static double seconds = 5, rate, spread_ms;
static char failure[400];
static struct series latency, first, delay, gap;
static int idle[MAX_CONNS], idle_count;
static long *backlog;           /* due times of an open loop that found no idle connection */
static size_t backlog_first, backlog_len, backlog_cap;

static void note(struct series *s, long us) {
    if (s->n == s->cap) s->at = realloc(s->at, (s->cap = s->cap ? s->cap * 2 : 65536) * sizeof *s->at);
    s->at[s->n++] = us < 0 ? 0 : (unsigned)us;
}

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void watch(struct conn *c, int op, unsigned events) {
    struct epoll_event e = {.events = events, .data.ptr = c};
    epoll_ctl(poller, op, c->fd, &e);
}

static void open_conn(struct conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a)) {
        perror("connect");
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->connected = 1;
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void send_more(struct conn *c) {
    while (c->sent < c->out->n) {
        ssize_t n = write(c->fd, c->out->bytes + c->sent, c->out->n - c->sent);
        if (n < 0 && errno == EAGAIN) return watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        if (n < 0) return;      /* the read tells why */
        c->sent += (size_t)n;
    }
    if (c->out->n > 65536) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(struct conn *c, long due_us) {
    c->busy = 1;
    c->due_us = due_us;
    c->out = &requests[next_file++ % file_count];
    c->sent = c->head_len = c->tail_len = 0;
    c->in_body = c->chunks = 0;
    c->stamp_digits = -1;
    c->last_stamp_us = 0;
    send_more(c);
}

static void fail(struct conn *c, const char *why, const char *what, size_t n) {
    if (!failed++) {
        snprintf(failure, sizeof failure, "%s: %.*s", why, (int)(n > 250 ? 250 : n), what);
        for (char *p = failure; *p; p++)
            if (*p < ' ' || *p == '"' || *p == '\\') *p = ' ';
    }
    if (c->busy && rate > 0) idle[idle_count++] = (int)(c - conns);
    close(c->fd);
    c->connected = c->busy = 0;
    open_conn(c);
}

/* One piece of the body, out of its framing: find stamps, keep the tail. */
static void take(struct conn *c, const char *p, size_t n, long now) {
    if (expected)
        for (size_t i = 0; i < n; i++) {
            char ch = p[i];
            if (c->stamp_digits < 0) {
                const char *found = memchr(p + i, '~', n - i);
                if (!found) break;
                i = (size_t)(found - p);
                c->stamp_digits = 0;
                c->stamp_us = 0;
                continue;
            }
            int digit = ch >= '0' && ch <= '9' ? ch - '0' : ch >= 'a' && ch <= 'f' ? ch - 'a' + 10 : -1;
            if (digit < 0) {
                c->stamp_digits = -1;
                continue;
            }
            c->stamp_us = c->stamp_us * 16 + digit;
            if (++c->stamp_digits < STAMP) continue;
            c->stamp_digits = -1;
            if (!c->chunks++) note(&first, now - c->due_us);
            else {
                long differs = (now - c->last_seen_us) - (c->stamp_us - c->last_stamp_us);
                note(&gap, differs);
            }
            note(&delay, now - c->stamp_us);
            c->last_stamp_us = c->stamp_us;
            c->last_seen_us = now;
        }
    if (n >= TAIL) {
        memcpy(c->tail, p + n - TAIL, c->tail_len = TAIL);
    } else {
        size_t keep = c->tail_len + n > TAIL ? TAIL - n : c->tail_len;
        memmove(c->tail, c->tail + c->tail_len - keep, keep);
        memcpy(c->tail + keep, p, n);
        c->tail_len = keep + n;
    }
    c->tail[c->tail_len] = 0;
}

static void done(struct conn *c, long now) {
    if (expected && (c->chunks != expected || !strstr(c->tail, "[DONE]"))) {
        char what[80];
        fail(c, "a stream is not whole", what, (size_t)snprintf(what, sizeof what, "%d of %d chunks, end %s", c->chunks, expected, c->tail));
        return;
    }
    note(&latency, now - c->due_us);
    c->busy = 0;
    if (strcasestr(c->head, "\r\nconnection: close")) {
        close(c->fd);
        open_conn(c);
    }
    if (rate > 0) {
        if (backlog_len) {
            ask(c, backlog[backlog_first++ % backlog_cap]);
            backlog_len--;
        } else idle[idle_count++] = (int)(c - conns);
    } else if (now < ends_us) ask(c, now);
}

static int read_head(struct conn *c, const char *p, size_t n, size_t *used) {
    size_t had = c->head_len, room = HEAD - 1 - had, k = n < room ? n : room;
    memcpy(c->head + had, p, k);
    c->head_len += k;
    c->head[c->head_len] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (!end) {
        *used = k;
        return c->head_len == HEAD - 1 ? -1 : 0;
    }
    *used = (size_t)(end + 4 - c->head) - had;
    if (strncmp(c->head + 9, "200", 3)) return -1;
    end[2] = 0;
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    c->framing = strcasestr(c->head, "\r\ntransfer-encoding: chunked") ? CHUNKED : length ? LENGTH : NONE;
    c->left = length ? strtoul(length + 17, NULL, 10) : 0;
    c->part = SIZE;
    c->size = 0;
    c->in_body = 1;
    return c->framing == NONE ? -1 : 1;
}

/* What was read. Stops at the end of the answer: nothing may follow it. */
static void feed(struct conn *c, const char *p, size_t n, long now) {
    size_t used;
    if (!c->busy) return fail(c, "bytes that nobody asked for", p, n);
    if (!c->in_body) {
        int got = read_head(c, p, n, &used);
        if (got < 0) return fail(c, "refused", c->head, c->head_len + (n - used) > 250 ? 250 : c->head_len);
        p += used;
        n -= used;
        if (!got) return;
    }
    while (n || (c->framing == LENGTH && !c->left)) {
        if (c->framing == LENGTH) {
            size_t k = n < c->left ? n : c->left;
            take(c, p, k, now);
            c->left -= k;
            if (!c->left) return k == n ? done(c, now) : fail(c, "bytes behind the answer", p, n);
            return;
        }
        if (c->part == SIZE) {
            char ch = *p++;
            n--;
            if (ch == '\n') {
                c->left = c->size;
                c->size = 0;
                c->part = c->left ? DATA : LAST;
            } else if (ch != '\r') {
                int digit = ch <= '9' ? ch - '0' : (ch | 32) - 'a' + 10;
                if (digit < 0 || digit > 15) return fail(c, "a chunk without a size", p - 1, n + 1);
                c->size = c->size * 16 + (size_t)digit;
            }
        } else if (c->part == DATA) {
            size_t k = n < c->left ? n : c->left;
            take(c, p, k, now);
            p += k;
            n -= k;
            if (!(c->left -= k)) c->part = DATA_END;
        } else {
            char ch = *p++;
            n--;
            if (ch != '\n') continue;
            if (c->part == LAST) return n ? fail(c, "bytes behind the answer", p, n) : done(c, now);
            c->part = SIZE;
        }
    }
}

static void readable(struct conn *c) {
    static char buffer[READ];
    ssize_t n = read(c->fd, buffer, sizeof buffer);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) {
        if (!c->busy) {         /* a kept-alive connection may be closed at any time */
            close(c->fd);
            open_conn(c);
        } else fail(c, "the connection was cut", c->tail, c->tail_len);
        if (rate <= 0 && now_us() < ends_us && !c->busy) ask(c, now_us());
        return;
    }
    feed(c, buffer, (size_t)n, now_us());
    if (!c->busy && rate <= 0 && failed && now_us() < ends_us) ask(c, now_us());
}

static void load_file(const char *path) {
    FILE *f = fopen(path, "rb");
    struct stat st;
    if (!f || fstat(fileno(f), &st) || file_count == MAX_FILES) {
        perror(path);
        exit(2);
    }
    struct request *r = &requests[file_count++];
    r->bytes = malloc((size_t)st.st_size);
    r->n = fread(r->bytes, 1, (size_t)st.st_size, f);
    fclose(f);
}

static int by_size(const void *a, const void *b) {
    unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
    return (x > y) - (x < y);
}

static void print_series(const char *name, struct series *s) {
    qsort(s->at, s->n, sizeof *s->at, by_size);
    unsigned p50 = s->n ? s->at[s->n / 2] : 0, p99 = s->n ? s->at[(size_t)((double)s->n * 0.99)] : 0;
    printf(",\"%s\":{\"count\":%zu,\"p50\":%u,\"p99\":%u,\"max\":%u}", name, s->n, p50, p99, s->n ? s->at[s->n - 1] : 0);
}

/* Ask whatever is due of an open loop; return when the next one is. */
static long ask_due(long *count, long began_us) {
    long now = now_us(), due;
    while ((due = began_us + (long)((double)*count * 1e6 / rate)) <= now && due < ends_us) {
        ++*count;
        if (idle_count) ask(&conns[idle[--idle_count]], due);
        else {
            if (backlog_len == backlog_cap) {
                fprintf(stderr, "the load is too high: %zu requests wait\n", backlog_len);
                exit(3);
            }
            backlog[(backlog_first + backlog_len++) % backlog_cap] = due;
        }
    }
    return due;
}

static int running(long now, long *count, long began_us) {
    if (rate > 0) {
        long due = ask_due(count, began_us);
        return due < ends_us || backlog_len || idle_count < conn_count;
    }
    for (int i = 0; i < conn_count; i++)
        if (conns[i].busy) return 1;
    return now < ends_us;
}

static void arguments(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "c:s:r:e:t:")) != -1) {
        if (option == 'c') conn_count = atoi(optarg);
        else if (option == 's') seconds = atof(optarg);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'e') expected = atoi(optarg);
        else if (option == 't') spread_ms = atof(optarg);
        else exit(2);
    }
    if (argc - optind < 2 || conn_count < 1 || conn_count > MAX_CONNS) {
        fprintf(stderr, "usage: client [-c CONNECTIONS] [-s SECONDS] [-r PER_SECOND] [-e CHUNKS] [-t SPREAD_MS] PORT FILE...\n");
        exit(2);
    }
    port = atoi(argv[optind]);
    for (int i = optind + 1; i < argc; i++) load_file(argv[i]);
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    conns = calloc((size_t)conn_count, sizeof *conns);
    backlog = malloc((backlog_cap = 1 << 20) * sizeof *backlog);
    poller = epoll_create1(0);
    struct epoll_event events[512];
    long began_us = now_us(), count = 0, opened = 0, last_us = began_us;
    ends_us = began_us + (long)(seconds * 1e6);
    for (long now = began_us; opened < conn_count || running(now, &count, began_us); now = now_us()) {
        long wanted = spread_ms > 0 ? (long)((double)conn_count * (double)(now - began_us) / (spread_ms * 1000)) + 1 : conn_count;
        while (opened < wanted && opened < conn_count) {
            struct conn *c = &conns[opened];
            open_conn(c);
            if (rate > 0) idle[idle_count++] = (int)opened;
            else ask(c, now_us());
            opened++;
        }
        int n = epoll_wait(poller, events, 512, rate > 0 || opened < conn_count ? 1 : 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) send_more(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
        }
        last_us = now_us();
        if (last_us > ends_us + 30000000) {
            failed++;
            snprintf(failure, sizeof failure, "an answer did not end within 30 s of the end of the load");
            break;
        }
    }
    printf("{\"failed\":%ld,\"failure\":\"%s\",\"seconds\":%.6f", failed, failure, (double)(last_us - began_us) / 1e6);
    print_series("latency", &latency);
    print_series("first", &first);
    print_series("delay", &delay);
    print_series("gap", &gap);
    puts("}");
    return 0;
}
