# Holds the result against facts that anybody can look up, and against itself.
#
# in:  facts.tsv, then what join writes

BEGIN { FS = "\t" }

function wrong(what) { print "check: " what | "cat >&2"; failed = 1 }

FILENAME ~ /facts\.tsv$/ {
    if ($0 !~ /^#/) { days[$1, $2] = $3; facts++ }
    next
}
$1 == "Z" {
    rows++
    year = 4 * (365 + (($4 % 4 == 0 && $4 % 100 != 0) || $4 % 400 == 0))
    if ($5 > $6 || $6 > year) wrong($3 " " $4 ": " $5 " of " $6 " quarters of a day, of " year)
    if (($3, $4) in days) {
        held++
        if ($5 < 4 * days[$3, $4] - 2 || $5 > 4 * days[$3, $4] + 2) wrong($3 " " $4 ": " $5 / 4 " days, expected " days[$3, $4])
    }
}
$1 == "Y" { zones[$3] += $5; had[$3] += $4 }

END {
    for (y in zones) if (zones[y] * 125 != rows) wrong(y ": " zones[y] " zones, but " rows " rows of 125 years")
    for (y = 1900; y < 1916; y++) if (had[y] != 0) wrong(y ": summer time before anybody had it")
    if (held != facts) wrong(held " of " facts " facts were in the data")
    if (failed) exit 1
    print held " facts hold, " rows " rows agree"
}
