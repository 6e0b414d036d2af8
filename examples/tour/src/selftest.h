/* What must hold, as a table. */
#ifndef RECKON_SELFTEST_H
#define RECKON_SELFTEST_H

/* Prints each case that does not hold, and returns how many there are. */
int selftest_run(void);

#endif
