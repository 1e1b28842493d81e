/* A mock upstream for benchmarks: one thread, epoll, keep-alive; cheap enough never to be the bottleneck.
 *
 *   cc -O2 -o upstream upstream.c && ./upstream PORT [FIRST_TOKEN_US] [CHUNKS] [INTERVAL_US]
 *
 * It speaks the dialect of the path that is asked: /v1/messages anthropic, ...:generateContent gemini, /api/chat ollama, else openai.
 * POST for a stream: CHUNKS content events, the first after FIRST_TOKEN_US, then one each INTERVAL_US (0: all at once), what ends a
 * stream of the dialect, with usage; for openai only when include_usage is asked for. The text of an event is ~ and the moment it was
 * sent, 13 hexadecimal digits: microseconds of CLOCK_MONOTONIC. Any other POST: a whole answer. GET /mode?FIRST_TOKEN_US,CHUNKS,INTERVAL_US
 * changes what the next streams are; GET of anything else: a model list. Linux only. Requests carry a content-length. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FD = 65536, TEXT = 65536 };
enum state { READING, WAITING, STREAMING };
enum dialect { OPENAI, ANTHROPIC, GEMINI, OLLAMA };

struct conn {
    char *in;        /* bytes read and not yet answered */
    size_t in_len, in_cap;
    char *out;       /* bytes the socket did not take yet */
    size_t out_len, out_cap;
    enum state state;
    enum dialect dialect;
    int wants_usage, next_chunk;
    long due_us;     /* when a WAITING or STREAMING connection goes on */
    int slot;        /* place in `timed`, or -1 */
};

static struct conn *conns[MAX_FD];
static int timed[MAX_FD], timed_count, poller;
static long first_token_us, interval_us;
static int chunks = 32;

static long now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000L + t.tv_nsec / 1000;
}

static void set_timer(int fd, long due_us) {
    struct conn *c = conns[fd];
    c->due_us = due_us;
    if (c->slot < 0) {
        c->slot = timed_count;
        timed[timed_count++] = fd;
    }
}

static void clear_timer(int fd) {
    struct conn *c = conns[fd];
    if (c->slot < 0) return;
    int last = timed[--timed_count];
    timed[c->slot] = last;
    conns[last]->slot = c->slot;
    c->slot = -1;
}

static void drop(int fd) {
    struct conn *c = conns[fd];
    clear_timer(fd);
    close(fd);
    free(c->in);
    free(c->out);
    free(c);
    conns[fd] = NULL;
}

static void watch(int fd, int op, unsigned events) {
    struct epoll_event e = {.events = events, .data.fd = fd};
    epoll_ctl(poller, op, fd, &e);
}

static void grow(char **buffer, size_t *cap, size_t need) {
    if (need <= *cap) return;
    *cap = need * 2;
    *buffer = realloc(*buffer, *cap);
    if (!*buffer) abort();
}

/* Write what is pending. Returns -1 when the connection is gone (and dropped). */
static int flush_out(int fd) {
    struct conn *c = conns[fd];
    size_t done = 0;
    while (done < c->out_len) {
        ssize_t n = write(fd, c->out + done, c->out_len - done);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) {
            drop(fd);
            return -1;
        }
        done += (size_t)n;
    }
    int was_full = c->out_len > 0;
    memmove(c->out, c->out + done, c->out_len - done);
    c->out_len -= done;
    if (c->out_len || was_full) watch(fd, EPOLL_CTL_MOD, c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
    return 0;
}

static int put(int fd, const char *data, size_t n) {
    struct conn *c = conns[fd];
    grow(&c->out, &c->out_cap, c->out_len + n);
    memcpy(c->out + c->out_len, data, n);
    c->out_len += n;
    return c->out_len == n ? flush_out(fd) : 0;
}

static int put_whole(int fd, const char *body) {
    char text[TEXT];
    int n = snprintf(text, sizeof text,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
    return put(fd, text, (size_t)n);
}

/* One chunk of the body, as it stands. */
static int put_chunk(int fd, const char *data) {
    char text[TEXT];
    int n = snprintf(text, sizeof text, "%zx\r\n%s\r\n", strlen(data), data);
    return put(fd, text, (size_t)n);
}

#define OPENAI_EVENT "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"mock-model\",\"choices\":[%s\n\n"
#define GEMINI_EVENT "data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"%s\"}],\"role\":\"model\"},%s\"index\":0}],\"usageMetadata\":" \
    "{\"promptTokenCount\":12,\"candidatesTokenCount\":%d,\"totalTokenCount\":%d},\"modelVersion\":\"mock-model\",\"responseId\":\"r\"}\r\n\r\n"
#define OLLAMA_EVENT "{\"model\":\"mock-model\",\"created_at\":\"2024-05-24T20:26:46.294874Z\",\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},%s}\n"

static int answer_whole(int fd) {
    enum dialect dialect = conns[fd]->dialect;
    char body[2048], content[1024] = "";
    int n = chunks, all = chunks + 12;
    for (int i = 0; i < chunks && strlen(content) < 900; i++) strcat(content, "xxxxxxxx");
    if (dialect == ANTHROPIC)
        snprintf(body, sizeof body, "{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock-model\",\"content\":[{\"type\":\"text\","
            "\"text\":\"%s\"}],\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":12,\"output_tokens\":%d}}", content, n);
    else if (dialect == GEMINI)
        snprintf(body, sizeof body, GEMINI_EVENT, content, "\"finishReason\":\"STOP\",", n, all);
    else if (dialect == OLLAMA)
        snprintf(body, sizeof body, OLLAMA_EVENT, content, "\"done_reason\":\"stop\",\"done\":true,\"prompt_eval_count\":12,\"eval_count\":1");
    else
        snprintf(body, sizeof body,
            "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"mock-model\",\"choices\":[{"
            "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s\"},\"finish_reason\":\"stop\"}],\"usage\":{"
            "\"prompt_tokens\":12,\"completion_tokens\":%d,\"total_tokens\":%d}}", content, n, all);
    return put_whole(fd, dialect == GEMINI ? body + 6 : body);
}

/* The text of one content event. */
static int put_content(int fd, int is_first) {
    char text[TEXT], choice[256], stamp[16];
    snprintf(stamp, sizeof stamp, "~%013lx", now_us());
    switch (conns[fd]->dialect) {
    case ANTHROPIC:
        snprintf(text, sizeof text, "%sevent: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"%s\"}}\n\n",
            is_first ? "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"mock-model\","
                "\"content\":[],\"stop_reason\":null,\"usage\":{\"input_tokens\":12,\"output_tokens\":1}}}\n\nevent: content_block_start\ndata: {\"type\":\"content_block_start\","
                "\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n" : "", stamp);
        break;
    case GEMINI:
        snprintf(text, sizeof text, GEMINI_EVENT, stamp, "", 1, 13);
        break;
    case OLLAMA:
        snprintf(text, sizeof text, OLLAMA_EVENT, stamp, "\"done\":false");
        break;
    default:
        snprintf(choice, sizeof choice, "{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"finish_reason\":null}]}",
            is_first ? "\"role\":\"assistant\"," : "", stamp);
        snprintf(text, sizeof text, OPENAI_EVENT, choice);
    }
    return put_chunk(fd, text);
}

/* Everything behind the last content event. */
static int finish_stream(int fd) {
    struct conn *c = conns[fd];
    char text[2048], usage[256] = "";
    int gone;
    switch (c->dialect) {
    case ANTHROPIC:
        snprintf(text, sizeof text, "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\","
            "\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":%d}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n", chunks);
        gone = put_chunk(fd, text);
        break;
    case GEMINI:
        snprintf(text, sizeof text, GEMINI_EVENT, "", "\"finishReason\":\"STOP\",", chunks, chunks + 12);
        gone = put_chunk(fd, text);
        break;
    case OLLAMA:
        snprintf(usage, sizeof usage, "\"done_reason\":\"stop\",\"done\":true,\"prompt_eval_count\":12,\"eval_count\":%d", chunks);
        snprintf(text, sizeof text, OLLAMA_EVENT, "", usage);
        gone = put_chunk(fd, text);
        break;
    default:
        snprintf(text, sizeof text, OPENAI_EVENT, "{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}");
        gone = put_chunk(fd, text);
        snprintf(usage, sizeof usage, "],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":%d,\"total_tokens\":%d}}", chunks, chunks + 12);
        snprintf(text, sizeof text, OPENAI_EVENT, usage);
        if (gone >= 0 && c->wants_usage) gone = put_chunk(fd, text);
        if (gone >= 0) gone = put_chunk(fd, "data: [DONE]\n\n");
    }
    if (gone < 0) return -1;
    c->state = READING;
    clear_timer(fd);
    return put(fd, "0\r\n\r\n", 5);
}

/* Send what is due of a stream: one event when paced, all of it when not. */
static int step_stream(int fd) {
    struct conn *c = conns[fd];
    if (c->next_chunk == 0) {
        char head[256];
        const char *kind = c->dialect == OLLAMA ? "application/x-ndjson" : "text/event-stream";
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n", kind);
        if (put(fd, head, (size_t)n) < 0) return -1;
    }
    do {
        if (c->next_chunk == chunks) return finish_stream(fd);
        if (put_content(fd, c->next_chunk++ == 0) < 0) return -1;
    } while (!interval_us);
    set_timer(fd, c->due_us && c->next_chunk > 1 ? c->due_us + interval_us : now_us() + interval_us);
    return 0;
}

/* What a request asks for, by its first line and body. */
static int wants_stream(struct conn *c, const char *body) {
    char line[512];
    snprintf(line, sizeof line, "%.*s", (int)strcspn(c->in, "\r"), c->in);
    if (strcasestr(line, "GenerateContent")) {
        c->dialect = GEMINI;
        return strstr(line, ":stream") != NULL;
    }
    c->dialect = strstr(line, "/v1/messages") ? ANTHROPIC : strstr(line, "/api/chat") ? OLLAMA : OPENAI;
    if (c->dialect == OLLAMA) return !strstr(body, "\"stream\":false") && !strstr(body, "\"stream\": false");
    return strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true");
}

static int answer_get(int fd) {
    if (sscanf(conns[fd]->in, "GET /mode?%ld,%d,%ld", &first_token_us, &chunks, &interval_us) == 3) return put_whole(fd, "{}");
    return put_whole(fd, "{\"object\":\"list\",\"data\":[{\"id\":\"mock-model\",\"object\":\"model\",\"created\":1,\"owned_by\":\"mock\"}]}");
}

static int start(int fd, int streams) {
    struct conn *c = conns[fd];
    c->state = streams ? STREAMING : WAITING;
    c->next_chunk = 0;
    if (first_token_us) {
        set_timer(fd, now_us() + first_token_us);
        return 0;
    }
    if (streams) return step_stream(fd);
    c->state = READING;
    return answer_whole(fd);
}

/* Answer every whole request in the buffer, until one has to wait. Returns -1 when the connection is gone. */
static int serve(int fd) {
    struct conn *c = conns[fd];
    while (c->state == READING) {
        c->in[c->in_len] = 0;
        char *end = strstr(c->in, "\r\n\r\n");
        if (!end) return 0;
        char *length = strcasestr(c->in, "\r\ncontent-length:");
        size_t total = (size_t)(end - c->in) + 4 + (length && length < end ? strtoul(length + 17, NULL, 10) : 0);
        if (c->in_len < total) return 0;
        char kept = c->in[total];
        c->in[total] = 0;
        int post = !strncmp(c->in, "POST", 4);
        int streams = post && wants_stream(c, end);
        c->wants_usage = strstr(end, "include_usage") != NULL;
        c->in[total] = kept;
        int gone = post ? 0 : answer_get(fd);
        if (gone < 0) return -1;
        memmove(c->in, c->in + total, c->in_len - total);
        c->in_len -= total;
        if (post) gone = start(fd, streams);
        if (gone < 0) return -1;
    }
    return 0;
}

static void readable(int fd) {
    struct conn *c = conns[fd];
    for (;;) {
        grow(&c->in, &c->in_cap, c->in_len + 4096);
        ssize_t n = read(fd, c->in + c->in_len, c->in_cap - c->in_len - 1);
        if (n > 0) {
            c->in_len += (size_t)n;
            continue;
        }
        if (n < 0 && errno == EAGAIN) break;
        drop(fd);
        return;
    }
    serve(fd);
}

static void accept_all(int listener) {
    int one = 1, fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        conns[fd] = calloc(1, sizeof **conns);
        conns[fd]->slot = -1;
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

static void fire_timers(void) {
    long now = now_us();
    for (int i = timed_count - 1; i >= 0; i--) {
        if (i >= timed_count) continue;
        int fd = timed[i];
        struct conn *c = conns[fd];
        if (c->due_us > now) continue;
        if (c->state == STREAMING) {
            if (step_stream(fd) < 0 || c->state == STREAMING) continue;
        } else {
            clear_timer(fd);
            c->state = READING;
            if (answer_whole(fd) < 0) continue;
        }
        serve(fd);
    }
}

static int listen_on(int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) {
        perror("listen");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: upstream PORT [FIRST_TOKEN_US] [CHUNKS] [INTERVAL_US]\n"), 2;
    if (argc > 2) first_token_us = atol(argv[2]);
    if (argc > 3) chunks = atoi(argv[3]);
    if (argc > 4) interval_us = atol(argv[4]);
    signal(SIGPIPE, SIG_IGN);
    int listener = listen_on(atoi(argv[1]));
    poller = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    puts("ready");
    fflush(stdout);
    struct epoll_event events[512];
    for (;;) {
        int n = epoll_wait(poller, events, 512, timed_count ? 1 : 1000);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all(fd);
            else {
                if (conns[fd] && (events[i].events & EPOLLOUT) && flush_out(fd) < 0) continue;
                if (conns[fd] && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) readable(fd);
            }
        }
        fire_timers();
    }
}
