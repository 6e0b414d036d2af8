# Brings the regions together and puts zones with a like history side by side.
#
# in:  regions.tsv, then what aggregate writes for each region
# out: Z <tab> region <tab> zone <tab> year <tab> quarters ahead <tab> quarters with a clock of record
#      Y <tab> region <tab> year <tab> zones that had summer time <tab> zones
#
# The order within a region: first the zone with most years of summer time, then always the one whose history
# differs least from the one before it.

BEGIN { FS = OFS = "\t" }

FILENAME ~ /regions\.tsv$/ {
    if ($0 !~ /^#/ && $2 != "-" && !($2 in members)) { members[$2] = 0; region[++regions] = $2 }
    next
}

{
    if (!(($1, $2) in number)) {
        number[$1, $2] = ++zones
        zone[zones] = $2
        member[$1, ++members[$1]] = zones
    }
    z = number[$1, $2]
    ahead[z, $3] = $4 + 0
    known[z, $3] = $5 + 0
    if ($4 > 0) { had[$1, $3]++; years_ahead[z]++ }
    if (first == "" || $3 < first) first = $3
    if ($3 > last) last = $3
}

# How far apart two histories are; given up at `limit`.
function distance(a, b, limit,    y, d, sum) {
    sum = 0
    for (y = first; y <= last && sum < limit; y++) {
        d = ahead[a, y] - ahead[b, y]
        sum += d < 0 ? -d : d
        if ((known[a, y] > 0) != (known[b, y] > 0)) sum += 50
    }
    return sum
}

function put(r, z,    y) {
    done[z] = 1
    for (y = first; y <= last; y++) print "Z", r, zone[z], y, ahead[z, y], known[z, y]
}

END {
    for (r = 1; r <= regions; r++) {
        here = region[r]
        current = 0
        for (i = 1; i <= members[here]; i++) {
            best = 0
            nearest = 1e9
            for (j = 1; j <= members[here]; j++) {
                z = member[here, j]
                if (z in done) continue
                d = current ? distance(current, z, nearest) : -years_ahead[z]
                if (d < nearest) { nearest = d; best = z }
            }
            put(here, current = best)
        }
    }
    for (r = 1; r <= regions; r++)
        for (y = first; y <= last; y++) print "Y", region[r], y, had[region[r], y] + 0, members[region[r]]
}
