import com.pixelmed.validate.DicomSRValidator;
import java.io.BufferedReader;
import java.io.InputStreamReader;

/** Validates the structured report at each path that is a line of the input. */
class ValidateReports {
    public static void main(String[] arguments) throws Exception {
        var validator = new DicomSRValidator();
        var paths = new BufferedReader(new InputStreamReader(System.in));
        for (var path = paths.readLine(); path != null; path = paths.readLine()) {
            System.out.println(validator.validate(path));
            System.out.println("END");
        }
    }
}
