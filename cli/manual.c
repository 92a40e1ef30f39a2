#include "base/roff.h"
#include "cli/config_file.h"
#include "cli/help.h"

static void write_text(struct buffer *out, const char *text) {
    roff_text(out, text);
    buffer_text(out, "\n");
}

static void write_command(const struct command *command, struct buffer *out) {
    buffer_text(out, ".SS tandem ");
    roff_text(out, command->name);
    help_write_usage(command, out);
    buffer_format(out, "\n%c", command->summary[0] & ~0x20);
    roff_text(out, command->summary + 1);
    buffer_text(out, ".\n");
    if (command->description) {
        buffer_text(out, ".PP\n");
        write_text(out, command->description);
    }
    if (command->table_count) settings_roff(command->tables, command->table_count, out);
    if (command->examples) buffer_text(out, ".PP\nExamples:\n");
    for (const struct example *example = command->examples; example && example->line; example++) {
        buffer_text(out, ".PP\n.nf\n.RS 4\n.B ");
        write_text(out, example->line);
        buffer_text(out, ".RE\n.fi\n.RS 8\n");
        write_text(out, example->what);
        buffer_text(out, ".RE\n");
    }
}

void manual_write(struct buffer *out) {
    buffer_text(out, ".TH TANDEM 1 \"\" \"Tandem " TANDEM_VERSION "\" \"User Commands\"\n"
                     ".SH NAME\ntandem \\- serve small mixture\\-of\\-experts models over the OpenAI API\n"
                     ".SH SYNOPSIS\n.B tandem\n.I COMMAND\n[\\fISETTINGS\\fR]\n"
                     ".SH DESCRIPTION\nTandem computes Phi\\-MoE models on one machine and answers requests of the "
                     "OpenAI API.\nA small model is built in. What a request may say is told by\n"
                     ".BR \"tandem help parameters\" ,\nwhat it is answered with when something is wrong by\n"
                     ".BR \"tandem help errors\" .\n.SH COMMANDS\n");
    for (const struct command *const *command = COMMANDS; *command; command++) write_command(*command, out);
    buffer_text(out, ".SH EXIT STATUS\n");
#define WRITE(name, code, when) \
    buffer_format(out, ".TP\n.B %d\n", code); \
    write_text(out, when);
    EXIT_CODES(WRITE)
#undef WRITE
    buffer_text(out, ".SH FILES\n.TP\n.I configs/tandem.yaml\n");
    write_text(out,
               "Settings of tandem serve and tandem health, where --config names no other file: in a checkout, beside "
               "the directory that the program was built in.");
    buffer_text(out, ".TP\n.I ");
    write_text(out, TANDEM_CONFIG_DIR "/" CONFIG_FILE_NAME);
    write_text(out, "The same of a program that is installed.");
    buffer_text(out, ".TP\n.I $XDG_STATE_HOME/tandem/history\n");
    write_text(out,
               "Lines entered in tandem chat, where --history names no other file. Without the variable it lies in "
               "~/.local/state/tandem.");
    buffer_text(out, ".SH ENVIRONMENT\nThe variables of settings stand with them, under each command.\n"
                     ".TP\n.BR GOMP_SPINCOUNT \", \" OMP_WAIT_POLICY\n");
    write_text(out, "How the threads wait for each other. Where neither is set they spin for a short time only.");
    buffer_text(out, ".TP\n.B NO_COLOR\n");
    write_text(out, "Where it is set, and not to nothing, a terminal gets no colours.");
}
