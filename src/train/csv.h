/* CSV after RFC 4180: quoted fields, doubled quotes, line breaks in quotes; LF or CRLF. Works in place on the text. */
#ifndef TRAIN_CSV_H
#define TRAIN_CSV_H

typedef struct {
    char *at;
    const char *name;  /* of the file, for messages */
    char **field;      /* of the current record; borrowed, point into the text */
    int count, cap;
    int line;          /* of the current record */
    int next_line;
} TrainCsv;

/* text: 0-terminated, is changed, must outlive c. */
void train_csv_init(TrainCsv *c, char *text, const char *name);
void train_csv_deinit(TrainCsv *c);
/* 1: a record is in field[]; 0: end; ERR_FORMAT (an unfinished quote, text after one) with the line; ERR_NOMEM. Empty lines are skipped. */
int train_csv_next(TrainCsv *c);

#endif
