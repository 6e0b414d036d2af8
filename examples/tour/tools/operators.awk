# Writes the header of operators from operators.txt. The order there is the order of the enumeration.

BEGIN {
    print "/* Made from operators.txt by tools/operators.awk. */"
    print "#ifndef RECKON_OPERATORS_H"
    print "#define RECKON_OPERATORS_H\n"
}

/^#/ || NF == 0 { next }

NF < 5 || ($4 != "left" && $4 != "right") || length($2) != 1 {
    print FILENAME ":" FNR ": expected: name symbol binding left|right meaning" | "cat >&2"
    failed = 1
    exit 1
}

{
    name[++count] = toupper($1); symbol[count] = $2; binding[count] = $3; right[count] = $4 == "right"
}

END {
    if (failed) exit 1
    print "enum op {"
    for (i = 1; i <= count; i++) printf "    OP_%s,\n", name[i]
    print "    OP_COUNT\n};\n"
    print "struct op_info {\n    char symbol;\n    int binding;\n    int groups_right;\n};\n"
    print "static const struct op_info op_table[OP_COUNT] = {"
    for (i = 1; i <= count; i++) printf "    [OP_%s] = {'%s', %d, %d},\n", name[i], symbol[i], binding[i], right[i]
    print "};\n\n#endif"
}
