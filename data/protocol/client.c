/* Ask the oracle from C (POSIX): what does the firmware answer, and why?
 * cc -o client client.c && ./client sevref */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static FILE *requests, *answers;
static pid_t process;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

/* Start "COMMAND... serve --stdio" with a pipe in each direction. */
static void start(int count, char **command)
{
    int in[2], out[2];
    char **argv = calloc(count + 3, sizeof *argv);
    if (argv == NULL || pipe(in) || pipe(out))
        fail("pipe");
    memcpy(argv, command, count * sizeof *argv);
    argv[count] = "serve";
    argv[count + 1] = "--stdio";
    if ((process = fork()) < 0)
        fail("fork");
    if (process == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        close(in[1]);
        close(out[0]);
        execvp(argv[0], argv);
        fail(argv[0]);
    }
    free(argv);
    close(in[0]);
    close(out[1]);
    if ((requests = fdopen(in[1], "w")) == NULL || (answers = fdopen(out[0], "r")) == NULL)
        fail("fdopen");
}

/* One request, one answer, each a line of JSON; the answer is valid until the next call. */
static const char *ask(const char *request)
{
    static char *line;
    static size_t size;
    fprintf(requests, "%s\n", request);
    fflush(requests);
    if (getline(&line, &size, answers) < 0)
        fail("the oracle ended");
    if (strstr(line, "\"ok\": true") == NULL) {
        fprintf(stderr, "%s", line);
        exit(1);
    }
    return line;
}

/* Print the text of a field. Statuses, rules and hex hold no escaped character. */
static void print_field(const char *answer, const char *name)
{
    char start[32];
    snprintf(start, sizeof start, "\"%s\": \"", name);
    const char *text = strstr(answer, start);
    if (text == NULL) {
        fprintf(stderr, "no %s in %s", name, answer);
        exit(1);
    }
    text += strlen(start);
    printf("%.*s", (int)strcspn(text, "\""), text);
}

int main(int argc, char **argv)
{
    char *usual[] = {"sevref"};
    if (argc > 1)
        start(argc - 1, argv + 1);
    else
        start(1, usual);
    ask("{\"op\": \"create\", \"seed\": \"00\"}");
    print_field(ask("{\"op\": \"cmd\", \"cmd\": \"INIT\", \"cmdbuf_in\": \"0000000000000000000000000000000000000000\"}"),
                "status");
    const char *activate = ask("{\"op\": \"cmd\", \"cmd\": \"ACTIVATE\", \"cmdbuf_in\": \"0100000064000000\"}");
    printf("\n");
    print_field(activate, "status");
    printf(" - ");
    print_field(activate, "rule");
    printf("\n");
    fclose(requests); /* the oracle ends with its input */
    int status;
    if (waitpid(process, &status, 0) < 0 || status != 0)
        return 1;
    return 0;
}
