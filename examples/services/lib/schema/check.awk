# Fails at the first field without a name or with a type nobody knows.
NF != 2 || ($2 != "number" && $2 != "text") {
    print "fields.tsv:" NR ": " $0 > "/dev/stderr"
    exit 1
}
