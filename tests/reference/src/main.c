#include <stdio.h>

int main(int argc, char **argv) {
    printf("%d words for %s\n", argc - 1, argv[0]);
    return 0;
}
